"""What tus says in headers: checksums of pieces, and what a client tells of its upload."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from app.domain.errors import Malformed

CHECKSUMS = ("sha1", "sha256", "sha512")
_LONGEST_DETAILS = 4096
_DETAIL_KEY = re.compile(r"[!-+\--~]+")
"""Printable ASCII without spaces and commas."""


@dataclass(frozen=True)
class Checksum:
    """What a piece must come to."""

    algorithm: str
    digest: bytes


def parse_checksum(header: str | None) -> Checksum | None:
    """Read ``Upload-Checksum``: the name of an algorithm and base64."""
    if header is None:
        return None
    algorithm, _, value = header.strip().partition(" ")
    if algorithm not in CHECKSUMS:
        raise Malformed(f"Upload-Checksum names {algorithm[:40]!r}; computed are {', '.join(CHECKSUMS)}.")
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("Upload-Checksum holds no base64 after the name of its algorithm.") from error
    if len(digest) != hashlib.new(algorithm).digest_size:
        raise Malformed(f"Upload-Checksum holds {len(digest)} bytes, which is no {algorithm}.")
    return Checksum(algorithm, digest)


def parse_details(header: str | None) -> dict[str, str]:
    """Read ``Upload-Metadata``: pairs of a key and the base64 of its value, which may be left out."""
    found: dict[str, str] = {}
    if len(header or "") > _LONGEST_DETAILS:
        raise Malformed(f"Upload-Metadata has more than {_LONGEST_DETAILS} characters.")
    for pair in (header or "").split(",") if (header or "").strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not _DETAIL_KEY.fullmatch(key) or key in found:
            raise Malformed(f"Upload-Metadata holds the key {key[:40]!r} twice, or it is none.")
        try:
            found[key] = base64.b64decode(value.strip(), validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError) as error:
            raise Malformed(f"Upload-Metadata holds no base64 behind the key {key[:40]!r}.") from error
    return found
