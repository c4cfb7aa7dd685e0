"""The service's Ed25519 key (RFC 8032): made once, kept in a file that only its user reads."""

import base64
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from app.domain.errors import Unavailable


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read the key, making it where there is none yet.

    Raises Unavailable where the file holds no such key, or none can be made.
    """
    try:
        with suppress(FileExistsError):
            if not path.exists():
                _make(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # the last of a key behind a password
        raise Unavailable(f"The signing key {path} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Unavailable(f"The signing key {path} is no Ed25519 key.")
    return key


def _make(path: Path) -> None:
    """Write a new key whole or not at all; of two that do so at once, the first to be there counts."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    try:
        os.link(unfinished, path)
    finally:
        unfinished.unlink()


def public_text(key: Ed25519PrivateKey) -> str:
    """Give the public key as the base64 of its 32 bytes."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def fingerprint(public_key: str) -> str:
    """Give the SHA-256 of a public key's bytes, for people to compare."""
    return hashlib.sha256(base64.b64decode(public_key)).hexdigest()


def is_signed(content: bytes, signature: bytes, public_key: str) -> bool:
    """Tell whether the signature is that of the content by this key."""
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True)).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
