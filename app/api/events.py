"""``/jobs/{id}/events`` and ``/logs``: what happened, listed or as it happens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from app.api.contents import require_acceptable
from app.api.deps import DEFAULT_LIMIT, JSON, MAX_INTEGER, Limit, Parts, PartsDep, Reader
from app.api.schemas import EventOut, Page
from app.api.watching import Line, written
from app.db.tables import EventRow
from app.domain.errors import Malformed
from app.domain.job import EventType, JobState
from app.services import jobs
from app.services.callers import Caller
from app.services.watching import over

router = APIRouter(prefix="/jobs", tags=["jobs"])

log = structlog.get_logger()

_STREAM = "text/event-stream"
_PING_SECONDS = 15
SEND_SECONDS = 30
"""A listener that takes nothing for so long is gone, or as good as gone."""
_END_SECONDS = 2.5
"""Time for streams to end of themselves once the server is to; it cuts them half a second later."""
_BATCH = 500

After = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Events that follow this id.")]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": Page[EventOut], "content": {_STREAM: {"schema": {"type": "string"}}}}
}


@router.get("/{job_id}/events", response_model=Page[EventOut], responses=_RESPONSES)
async def list_job_events(
    request: Request,
    parts: PartsDep,
    caller: Reader,
    job_id: str,
    after: After = 0,
    limit: Limit = DEFAULT_LIMIT,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """List events, oldest first; as ``text/event-stream``, follow them until the job ends."""
    if _wants_stream(request) and not getattr(request.state, "head", False):
        start = _event_id(last_event_id) if last_event_id else after
        await run_in_threadpool(_read, parts, caller, job_id, start, 1)
        stream = _follow(parts, caller, job_id, start)
        return _Stream(stream, ping=_PING_SECONDS, shutdown_grace_period=_END_SECONDS)
    _, rows = await run_in_threadpool(_read, parts, caller, job_id, after, limit + 1)
    return JSONResponse(Page.of(rows, limit, EventOut.of).model_dump(mode="json"))


@router.get("/{job_id}/logs", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def get_job_logs(request: Request, parts: PartsDep, caller: Reader, job_id: str) -> Response:
    """Give the job's log lines as plain text."""
    require_acceptable(request, "text/plain")
    _, first = await run_in_threadpool(_read, parts, caller, job_id, 0, _BATCH, EventType.LOG)
    return StreamingResponse(_lines(parts, caller, job_id, first), media_type="text/plain; charset=utf-8")


def _wants_stream(request: Request) -> bool:
    """Tell whether Accept names the stream, and likes the list no better; what takes anything gets the list."""
    accepted = parse_accept_header(request.headers.get("accept", "").lower(), MIMEAccept)
    named = max((share for name, share in accepted if name.partition(";")[0].rstrip() == _STREAM), default=0)
    return named > 0 and named >= accepted.quality(JSON)


class _Stream(EventSourceResponse):
    """Drops a listener that takes nothing for too long; it may come back with ``Last-Event-ID``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            # The library's own limit takes a fifth of what it takes to tell a thousand listeners of an event.
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                raise SendTimeoutError from None

        try:
            await super().__call__(scope, receive, send_in_time)
        except SendTimeoutError:
            log.info("listener_dropped", path=scope["path"])


async def _follow(parts: Parts, caller: Caller, job_id: str, after: int) -> AsyncIterator[bytes]:
    with parts.watch.seat(job_id, caller) as seat:
        topic = seat.topic
        # A key that is revoked meanwhile ends the stream.
        while not seat.ended:
            lines = topic.since(after) if topic.mark else []
            if lines is None:
                lines = await run_in_threadpool(_written, parts, job_id, after)
            if lines:
                yield b"".join(line for _, line in lines)
                after = lines[-1][0]
            elif topic.mark and after >= topic.mark.last_event_id and over(topic.mark):
                return
            else:
                await seat.turn()


def _written(parts: Parts, job_id: str, after: int) -> list[Line]:
    with parts.readers() as session:
        return [(row.id, written(row)) for row in jobs.events_after(session, job_id, after, limit=_BATCH)]


async def _lines(parts: Parts, caller: Caller, job_id: str, rows: Sequence[EventRow]) -> AsyncIterator[str]:
    while rows:
        yield "".join(
            f"{row.at:%Y-%m-%dT%H:%M:%S.%fZ} {row.data.get('level', 'info')} {row.data.get('message', '')}\n"
            for row in rows
        )
        _, rows = await run_in_threadpool(_read, parts, caller, job_id, rows[-1].id, _BATCH, EventType.LOG)


def _read(
    parts: Parts, caller: Caller, job_id: str, after: int, limit: int, type_: EventType | None = None
) -> tuple[JobState, Sequence[EventRow]]:
    with parts.readers() as session:
        state = JobState(jobs.find(session, caller.project_id, job_id).state)
        return state, jobs.events_after(session, job_id, after, limit=limit, type_=type_)


def _event_id(header: str) -> int:
    if not (header.isascii() and header.isdecimal()) or int(header[:11]) > MAX_INTEGER:
        raise Malformed("Last-Event-ID is no id of an event.")
    return int(header)
