"""``/sweeps``: recipes tried until the smallest is found that keeps what must be kept."""

from datetime import UTC, datetime
from operator import attrgetter

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.answering import Answering
from app.api.deps import (
    DEFAULT_LIMIT,
    Cursor,
    JsonBody,
    Limit,
    PartsDep,
    Reader,
    Reading,
    Wait,
    Writer,
    Writing,
    checked_cursor,
)
from app.api.schemas import Page
from app.api.sweep_schemas import SweepOut, SweepWhole
from app.api.waiting import read_until
from app.domain.ids import Prefix
from app.domain.job import check_labels
from app.domain.sweep import UNDERWAY, SweepSpec, SweepState
from app.services import callers, sweeps
from app.services.sweeps import SweepView

router = APIRouter(prefix="/sweeps", tags=["jobs"], route_class=Answering)

_RETRY_AFTER_SECONDS = "5"


@router.post("", status_code=202)
def create_sweep(
    request: Request,
    response: Response,
    parts: PartsDep,
    session: Writing,
    caller: Writer,
    _: JsonBody,
    spec: SweepSpec,
) -> SweepOut:
    """Try recipes from a space within a budget; one in which nothing could succeed is refused.

    Each trial is a job like any other, with its report. The first half spreads over the space, the rest stays near
    the best. The sweep succeeds where a trial meets the objective; `best_job_id` is the one that minimizes what was
    asked for.
    """
    check_labels(spec.labels)
    row = sweeps.submit(session, caller.project_id, spec, datetime.now(UTC), limit=parts.settings.max_active_jobs)
    response.headers["Location"] = f"{request.url.path}/{row.id}"
    response.headers["Retry-After"] = _RETRY_AFTER_SECONDS
    return SweepOut.of(row)


@router.get("")
def list_sweeps(
    session: Reading,
    caller: Reader,
    state: SweepState | None = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[SweepOut]:
    """List sweeps, newest first."""
    before = checked_cursor(Prefix.SWEEP, cursor)
    rows = sweeps.list_page(session, caller.project_id, state=state, before=before, limit=limit + 1)
    return Page.of(rows, limit, SweepOut.of)


@router.get("/{sweep_id}")
async def get_sweep(parts: PartsDep, caller: Reader, sweep_id: str, wait: Wait = 0) -> SweepWhole:
    """Show a sweep with its trials; with ``wait``, once its state has changed."""

    def read() -> SweepView:
        with parts.readers() as session:
            callers.require_valid(session, caller)
            return sweeps.get(session, caller.project_id, sweep_id)

    first = await run_in_threadpool(read)
    if not wait or first.row.state not in UNDERWAY:
        return SweepWhole.whole(first)
    watched = parts.watch, caller, sweep_id, read, attrgetter("row.state")
    return SweepWhole.whole(await read_until(*watched, leaves=first.row.state, seconds=wait))


@router.delete("/{sweep_id}", status_code=204)
def delete_sweep(session: Writing, caller: Writer, sweep_id: str) -> None:
    """Delete a sweep that has ended; its jobs stay."""
    sweeps.remove(session, caller, sweep_id)


@router.post("/{sweep_id}:cancel", status_code=202)
def cancel_sweep(response: Response, session: Writing, caller: Writer, sweep_id: str) -> SweepOut:
    """Cancel the jobs that are underway and start no more; the best so far is kept."""
    shown = SweepOut.of(sweeps.cancel(session, caller, sweep_id, datetime.now(UTC)))
    response.headers["Retry-After"] = _RETRY_AFTER_SECONDS
    response.headers["Location"] = f"/api/v1/sweeps/{shown.id}"
    return shown
