"""Files on their way down: under a temporary name until whole, resumed by Range, checked against the digest."""

import base64
import binascii
from collections.abc import Callable
from pathlib import Path

from winnow.errors import ConnectionFailed, DamagedTransfer, ProblemError
from winnow.transport import Transport, worth_another_try
from winnow.uploading import sha256_of

Progress = Callable[[int, int], None]
_PARTIAL = 206
_UNSATISFIABLE = 416
_SHORT_DIGEST = 16


def download(transport: Transport, path: str, target: Path, sha256: str, *, progress: Progress | None = None) -> Path:
    """Fetch a content whose SHA-256 is known. A file that is there already and has it is left alone.

    What a cut download left is gone on from, now or in a later process. Raises DamagedTransfer, and keeps nothing then.
    """
    if target.is_file() and sha256_of(target).hex() == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Named for the content: what is left of another one is never taken for a part of this.
    partial = target.with_name(f".{target.name}.{sha256[:_SHORT_DIGEST]}.part")
    tried = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            promised = _fetch(transport, path, partial, sha256, progress)
            break
        except (ProblemError, ConnectionFailed) as error:
            reached = partial.stat().st_size if partial.exists() else 0
            # One that gets on may be cut as often as it likes.
            tried = 0 if reached > before else tried
            if tried == transport.retries or not worth_another_try(error):
                raise
            transport.pause(tried, error)
            tried += 1
    found = sha256_of(partial).hex()
    if found != sha256 or promised not in {None, found}:
        partial.unlink()
        raise DamagedTransfer(
            f"{target.name} arrived with the SHA-256 {found}, not {promised or sha256}.", code="digest_mismatch"
        )
    partial.replace(target)
    return target


def _fetch(transport: Transport, path: str, partial: Path, sha256: str, progress: Progress | None) -> str | None:
    """Append what is missing; give the digest that the service names, in hexadecimal."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{sha256}"'}
    try:
        with transport.stream(path, headers) as response:
            have = have if response.status_code == _PARTIAL else 0
            size = have + int(response.headers.get("Content-Length", 0))
            with partial.open("ab" if have else "wb") as out:
                for block in response.iter_raw():
                    out.write(block)
                    have += len(block)
                    if progress:
                        progress(have, size)
            return _digest(response.headers.get("Repr-Digest", ""))
    except ProblemError as error:
        # All of it had arrived before: there is no byte behind the last.
        if error.status == _UNSATISFIABLE and have:
            return None
        raise


def _digest(header: str) -> str | None:
    """Read the SHA-256 out of a ``Repr-Digest`` header (RFC 9530)."""
    for member in header.split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() == "sha-256":
            try:
                return base64.b64decode(value.strip(":"), validate=True).hex()
            except binascii.Error:
                return None
    return None
