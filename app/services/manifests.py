"""Manifests: made for a job that ends, and checked in a folder that someone has downloaded."""

import base64
import binascii
import hashlib
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from app.domain.errors import CorruptFile, NotFound
from app.domain.manifest import MANIFEST_FILE, SIGNATURE_FILE, Manifest
from app.services import signing


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> tuple[bytes, bytes]:
    """Give the bytes of the manifest's file and of its signature's, which is base64 on one line."""
    content = manifest.model_dump_json(indent=2).encode() + b"\n"
    return content, base64.b64encode(key.sign(content)) + b"\n"


def read(folder: Path, public_key: str | None) -> Manifest:
    """Read the manifest of a folder once its signature is checked: by this key, or else by the one that it names.

    Raises:
        NotFound: there is no manifest, or no signature of it, or no such folder.
        CorruptFile: it is no manifest, or not signed by the key.
    """
    try:
        content, signature = ((folder / name).read_bytes() for name in (MANIFEST_FILE, SIGNATURE_FILE))
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename} is not there.", hint="Download every artifact of the job.") from error
    except OSError as error:
        raise NotFound(
            f"{error.filename} cannot be read: {error.strerror}. Give the folder of a job's artifacts."
        ) from error
    try:
        manifest = Manifest.model_validate_json(content)
        signed = base64.b64decode(signature.strip(), validate=True)
    except (ValidationError, binascii.Error) as error:
        raise CorruptFile(f"{MANIFEST_FILE} or its signature cannot be read: {error}") from error
    if not signing.is_signed(content, signed, public_key or manifest.public_key):
        raise CorruptFile(f"{MANIFEST_FILE} is not signed by the key {public_key or manifest.public_key}.")
    return manifest


def faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Name each file that is missing, is not what the job left, or that the manifest does not know."""
    known = {MANIFEST_FILE, SIGNATURE_FILE}
    for listed in manifest.artifacts:
        known.add(listed.name)
        path = folder / listed.name
        if not path.is_file():
            yield f"{listed.name} is missing"
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != listed.sha256:
            yield f"{listed.name} is not what the job left: its SHA-256 is {digest}, not {listed.sha256}"
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            yield f"{path.name} is none of the job's artifacts"
