"""What operators ask, outside the versioned API and without a key."""

from fastapi import APIRouter, Response

from app.api.deps import PartsDep
from app.api.schemas import Health
from app.services import metrics, readiness

router = APIRouter(tags=["operations"])

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz")
async def get_health() -> Health:
    """Tell that the process answers; nothing else is asked."""
    return Health(status="alive")


@router.get("/readyz")
def get_readiness(parts: PartsDep) -> Health:
    """Tell whether a job can be taken: 503 names the parts that fail."""
    readiness.check(parts.settings, parts.engine, parts.readers, parts.storage)
    return Health(status="ready")


@router.get("/metrics", response_class=Response)
def get_metrics(parts: PartsDep) -> Response:
    """Give the figures for Prometheus."""
    text = metrics.exposition(parts.readers, parts.job_counts, parts.settings.worker_timeout_seconds)
    return Response(text, media_type=_EXPOSITION)
