"""``/usage``: what the project has used."""

from fastapi import APIRouter

from app.api.deps import Reader, Reading
from app.api.tenancy_schemas import UsageOut
from app.services import usage

router = APIRouter(prefix="/usage", tags=["operations"])


@router.get("")
def get_usage(session: Reading, caller: Reader) -> UsageOut:
    """Tell what the project has used up to now."""
    return UsageOut.model_validate(usage.of_project(session, caller.project_id))
