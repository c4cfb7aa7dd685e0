"""The manifest of a job: the digest of every artifact, signed by the service that made them."""

from pydantic import BaseModel, ConfigDict

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileDigest(_Part):
    """One artifact."""

    name: str
    size_bytes: int
    sha256: str


class Source(_Part):
    """What was uploaded."""

    id: str
    sha256: str


class Manifest(_Part):
    """All that a job left, and from what; ``public_key`` is the base64 of the raw Ed25519 key that signed it."""

    job_id: str
    model: Source
    dataset: Source
    artifacts: tuple[FileDigest, ...]
    service: str
    public_key: str
