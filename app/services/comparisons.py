"""Jobs beside each other: what each gave, and which of them no other beats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.db import jobs
from app.db.tables import JobRow
from app.domain.errors import FieldError, NoReport, NotFound
from app.domain.ids import Prefix, is_id
from app.domain.job import JobState

Better = Literal["higher", "lower"]
COSTS = ("p50_ms", "size_bytes")
"""What a job is judged by beside its metric: of the compressed file, and less is better."""
_BASELINE = "baseline_"


@dataclass(frozen=True)
class Compared:
    """A job, and those that beat it."""

    row: JobRow
    figures: dict[str, Any]
    metric: str
    dominated_by: tuple[str, ...]


def judged_by(compared: Sequence[Compared]) -> dict[str, Better]:
    """Give the figures that decided, each with what is better."""
    metrics: dict[str, Better] = {it.metric: "higher" for it in compared}
    return {**metrics, **dict.fromkeys(COSTS, "lower")}


def compare(session: Session, project_id: str, job_ids: Sequence[str]) -> list[Compared]:
    """Set jobs beside each other, in the order asked for and each once.

    One dominates another that is no better in its metric nor in any of COSTS, and worse in one. Only jobs are set
    against each other that were measured alike: by the same metric, on the same data set, target, first batch size and
    number of threads.

    Raises:
        NotFound: a job is not there.
        NoReport: a job compressed nothing yet.
    """
    asked = [job_id for job_id in job_ids if is_id(Prefix.JOB, job_id)]
    known = {row.id: row for row in jobs.get_several(session, project_id, asked)}
    rows = [_checked(known.get(job_id), job_id, place) for place, job_id in enumerate(job_ids)]
    rows = list({row.id: row for row in rows}.values())
    return [
        Compared(row, row.summary or {}, _metric(row) or "", tuple(it.id for it in rows if _dominates(it, row)))
        for row in rows
    ]


def front(rows: Sequence[JobRow]) -> tuple[str, ...]:
    """Give the ids of those that succeeded and that none of the others dominates."""
    rows = [row for row in rows if row.state == JobState.SUCCEEDED and _is_comparable(row)]
    return tuple(row.id for row in rows if not any(_dominates(it, row) for it in rows))


def _is_comparable(row: JobRow) -> bool:
    # An analysis has a summary too, and nothing in it that could be compared.
    return row.summary is not None and _metric(row) is not None and row.summary.keys() >= {*COSTS}


def _checked(row: JobRow | None, job_id: str, place: int) -> JobRow:
    pointer = f"/query/job_id/{place}"
    if row is None:
        message = f"There is no job {job_id!r}."
        raise NotFound(message, errors=[FieldError(pointer=pointer, message=message)])
    if not _is_comparable(row):
        message = f"The job {job_id} has no report of something compressed: it is {row.state}."
        raise NoReport(message, errors=[FieldError(pointer=pointer, message=message)])
    return row


def _dominates(one: JobRow, other: JobRow) -> bool:
    if _conditions(one) != _conditions(other):
        return False
    pairs = list(zip(_costs(one), _costs(other), strict=True))
    return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)


def _costs(row: JobRow) -> list[float]:
    summary = row.summary or {}
    return [-float(summary[_metric(row) or ""]), *(float(summary[name]) for name in COSTS)]


def _metric(row: JobRow) -> str | None:
    """Name the metric that the job is judged by: the first that was measured on both sides."""
    summary = row.summary or {}
    both = (name for name in summary if name not in COSTS and f"{_BASELINE}{name}" in summary)
    return next(both, None)


def _conditions(row: JobRow) -> tuple[Any, ...]:
    latency = row.spec.get("latency", {})
    threads = latency.get("threads", 1)
    first = threads if isinstance(threads, int) else threads[0]
    return _metric(row), row.dataset_id, row.target, latency.get("batch_sizes", [1])[0], first
