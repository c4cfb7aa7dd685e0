"""``/comparisons``: jobs beside each other."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.deps import Reader, Reading
from app.api.schemas import ComparisonOut
from app.services import comparisons

router = APIRouter(prefix="/comparisons", tags=["jobs"])

JobIds = Annotated[list[str], Query(min_length=1, max_length=100, description="Once for each job.")]


@router.get("")
def compare_jobs(session: Reading, caller: Reader, job_id: JobIds) -> ComparisonOut:
    """Set jobs beside each other by the headline figures of their reports.

    A job is `dominated` where another one's compressed file is no worse in its metric (such as `accuracy`), `p50_ms`
    and `size_bytes` and better in one of them; the rest are the Pareto front. `figures` names them. Only jobs measured
    alike are set against each other: by one metric, on one data set, target, first batch size and number of threads.
    """
    return ComparisonOut.of(comparisons.compare(session, caller.project_id, job_id))
