"""``/jobs``: compression, asked for and followed."""

from operator import attrgetter
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.answering import Answering, Making
from app.api.contents import content, disposition, require_acceptable
from app.api.deps import (
    DEFAULT_LIMIT,
    HTML,
    JSON,
    MARKDOWN,
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
from app.api.schemas import ArtifactOut, Items, JobOut, Page
from app.api.waiting import read_until
from app.db.tables import ArtifactRow
from app.domain.errors import FieldError, ValidationFailed
from app.domain.ids import Prefix
from app.domain.job import JobSpec, JobState, check_labels
from app.domain.report import AnyReport
from app.domain.task import CARD_FILE, PAGE_FILE, REPORT_FILE
from app.services import artifacts, callers, jobs
from app.services.jobs import JobView

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=Answering)

_RETRY_AFTER_SECONDS = "2"
_REPORTS = {JSON: REPORT_FILE, HTML: PAGE_FILE, MARKDOWN: CARD_FILE}
"""The forms of a report, the default first."""
_TEXT = {"type": "string"}
_WORDS_ALONE = {
    # What wrote the page had read a user's files: whatever it came to hold may be looked at, and does nothing.
    # The page's own policy, which is enforced beside this one, allows one style by its digest.
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


@router.post("", status_code=202, response_model=JobOut)
async def create_job(request: Request, parts: PartsDep, caller: Writer, _: JsonBody, spec: JobSpec) -> Response:
    """Queue a compression; one that could only fail is refused."""
    check_labels(spec.labels)
    told = Making(request, request.url.path, JobOut.of, 202, retry_after=_RETRY_AFTER_SECONDS)

    def submit() -> None:
        with parts.sessions.begin() as session:
            told(session, jobs.submit(session, caller.project_id, spec, limit=parts.settings.max_active_jobs))

    # In one thread from beginning to end: whoever holds rows of the project waits for no other thread to be free.
    await to_thread.run_sync(submit, limiter=parts.submissions)
    parts.relay.wake()
    return told.response


@router.get("")
def list_jobs(
    session: Reading,
    caller: Reader,
    state: JobState | None = None,
    model_id: str | None = None,
    sweep_id: str | None = None,
    label: Annotated[str | None, Query(description="`key:value`", pattern=r"^[^\x00:]+:[^\x00]+$")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[JobOut]:
    """List jobs, newest first."""
    views = jobs.list_page(
        session,
        caller.project_id,
        state=state,
        model_id=_checked("model_id", model_id),
        sweep_id=_checked("sweep_id", sweep_id),
        label=_pair(label),
        before=checked_cursor(Prefix.JOB, cursor),
        limit=limit + 1,
    )
    return Page.of(views, limit, JobOut.of)


@router.get("/{job_id}")
async def get_job(parts: PartsDep, caller: Reader, job_id: str, wait: Wait = 0) -> JobOut:
    """Show a job; with ``wait``, once its state has changed."""

    def read() -> JobView:
        with parts.readers() as session:
            callers.require_valid(session, caller)
            return jobs.get(session, caller.project_id, job_id)

    first = await run_in_threadpool(read)
    if not wait or JobState(first.row.state).ended:
        return JobOut.of(first)
    watched = parts.watch, caller, job_id, read, attrgetter("row.state")
    return JobOut.of(await read_until(*watched, leaves=first.row.state, seconds=wait))


@router.delete("/{job_id}", status_code=204)
def delete_job(parts: PartsDep, caller: Writer, job_id: str) -> None:
    """Delete an ended job with its events and artifacts."""
    jobs.remove(parts.sessions, parts.storage, caller, job_id)


@router.post("/{job_id}:cancel", status_code=202)
def cancel_job(response: Response, session: Writing, caller: Writer, job_id: str) -> JobOut:
    """End a queued job at once; ask a running one to end."""
    view = jobs.cancel(session, caller, job_id)
    response.headers["Retry-After"] = _RETRY_AFTER_SECONDS
    response.headers["Location"] = f"/api/v1/jobs/{view.row.id}"
    return JobOut.of(view)


@router.post("/{job_id}:retry", status_code=202, response_model=JobOut)
def retry_job(request: Request, parts: PartsDep, caller: Writer, job_id: str) -> Response:
    """Queue a job again that ended without success; it goes on from its last checkpoint."""
    told = Making(request, "/api/v1/jobs", JobOut.of, 202, retry_after=_RETRY_AFTER_SECONDS)
    limit = parts.settings.max_active_jobs
    jobs.retry(parts.sessions, parts.storage, caller.project_id, job_id, told, limit=limit)
    parts.relay.wake()
    return told.response


@router.get("/{job_id}/artifacts")
def list_job_artifacts(session: Reading, caller: Reader, job_id: str) -> Items[ArtifactOut]:
    """List what the job left, by name."""
    return Items(items=[ArtifactOut.of(row) for row in artifacts.of_job(session, caller.project_id, job_id)])


@router.get(
    "/{job_id}/report",
    response_model=AnyReport,
    responses={200: {"content": {HTML: {"schema": _TEXT}, MARKDOWN: {"schema": _TEXT}}}},
)
async def get_job_report(request: Request, parts: PartsDep, caller: Reader, job_id: str) -> Response:
    """Give what the job measured: as JSON, as a page that stands alone, or as a model card."""

    def read() -> dict[str, ArtifactRow]:
        with parts.readers() as session:
            return artifacts.reports_of(session, caller.project_id, job_id)

    require_acceptable(request, *_REPORTS)
    rows = await run_in_threadpool(read)
    media_type = require_acceptable(request, *(form for form, name in _REPORTS.items() if name in rows))
    row = rows[_REPORTS[media_type]]
    headers = {"Vary": "Accept"}
    if media_type != JSON:
        headers |= _WORDS_ALONE | {"Content-Disposition": disposition("inline", row.name)}
    return await content(
        request,
        parts.storage,
        row.project_id,
        row.sha256,
        row.size_bytes,
        name=row.name,
        media_type=media_type,
        more_headers=headers,
    )


def _checked(name: str, object_id: str | None) -> str | None:
    if object_id is not None and "\x00" in object_id:
        message = "This is no id."
        raise ValidationFailed(message, errors=[FieldError(pointer=f"/query/{name}", message=message)])
    return object_id


def _pair(label: str | None) -> tuple[str, str] | None:
    if label is None:
        return None
    key, _, value = label.partition(":")
    return key, value
