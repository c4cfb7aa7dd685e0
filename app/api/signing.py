"""``/signing-key``: what the manifests of this service are checked by."""

from fastapi import APIRouter

from app.api.deps import PartsDep, Reader
from app.api.schemas import SigningKeyOut
from app.services import signing

router = APIRouter(tags=["operations"])


@router.get("/signing-key")
def get_signing_key(_: Reader, parts: PartsDep) -> SigningKeyOut:
    """Give the public key that signs each job's manifest."""
    public_key = signing.public_text(signing.load_key(parts.settings.signing_key))
    return SigningKeyOut(public_key=public_key, fingerprint=signing.fingerprint(public_key))
