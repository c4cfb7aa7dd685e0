"""``/targets``: where results can run."""

from fastapi import APIRouter

from app.api.deps import PartsDep, Reader, Reading
from app.api.schemas import Items, TargetOut
from app.services import workers

router = APIRouter(prefix="/targets", tags=["targets"])


@router.get("")
def list_targets(session: Reading, parts: PartsDep, _: Reader) -> Items[TargetOut]:
    """List the targets, and whether a live worker serves each."""
    served = workers.targets(session, parts.settings.worker_timeout_seconds)
    return Items(items=[TargetOut.of(target) for target in served])
