"""What endpoints ask for: the parts of the service, a session, the caller, a page."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, get_origin
from urllib.parse import unquote, unquote_to_bytes

from anyio import CapacityLimiter
from fastapi import Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.answering import keep_answer
from app.api.watching import Watch
from app.db.engine import Sessions
from app.domain.errors import FieldError, Unsupported, ValidationFailed
from app.domain.ids import Prefix, is_id
from app.queue import Relay
from app.services.callers import Caller, Keyring, Scope
from app.services.limits import Rates
from app.services.metrics import JobCounts
from app.services.resumable import Uploads
from app.settings import Settings
from app.storage import Storage

MAX_INTEGER = 2**31 - 1
JSON, HTML, MARKDOWN = "application/json", "text/html", "text/markdown"
OCTETS = "application/octet-stream"
OFFSET_OCTETS = "application/offset+octet-stream"


@dataclass(frozen=True)
class Parts:
    """What one application is made of.

    ``readers`` makes sessions that take no write lock. ``submissions`` lets so many be at work at once: more would wait
    for each other's rows in no order, each with its thread, and the last of them long.
    """

    settings: Settings
    engine: Engine
    sessions: Sessions
    readers: Sessions
    storage: Storage
    uploads: Uploads
    relay: Relay
    rates: Rates
    keyring: Keyring
    watch: Watch
    submissions: CapacityLimiter
    job_counts: JobCounts


# Asynchronous, though nothing is awaited: what is not is sent through a thread of the pool.
async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(_parts)]


def _reading(parts: PartsDep) -> Iterator[Session]:
    with parts.readers() as session:
        yield session


def _writing(request: Request, parts: PartsDep) -> Iterator[Session]:
    with parts.sessions.begin() as session:
        yield session
        keep_answer(request, session)
    parts.relay.wake()


# The scope makes the session end, and so commit, before the response is sent.
Reading = Annotated[Session, Depends(_reading, scope="function")]
Writing = Annotated[Session, Depends(_writing, scope="function")]

_bearer = HTTPBearer(auto_error=False, description="`<key id>.<secret>`")


def _ending_keys(parts: PartsDep) -> Iterator[None]:
    yield
    parts.keyring.forget()


# Named before the session, it ends behind the commit.
EndsKeys = Annotated[None, Depends(_ending_keys, scope="function")]


async def authenticated(parts: Parts, token: str | None) -> Caller:
    """Tell who holds the token, at the price of a thread only where the database is asked. Raises Unauthenticated."""
    known = parts.keyring.recall(token)
    return known if known is not None else await run_in_threadpool(parts.keyring.authenticate, token)


def _caller_with(scope: Scope) -> Callable[[Request, Parts, HTTPAuthorizationCredentials | None], Awaitable[Caller]]:
    async def caller(
        request: Request,
        parts: PartsDep,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        found = await authenticated(parts, credentials.credentials if credentials else None)
        request.state.key_id = found.key_id
        parts.rates.hit(found.project_id)
        found.require(scope)
        _refuse_unknown(request)
        _refuse_bytes(request.scope["query_string"])
        return found.during(request.state.request_id)

    return caller


Reader = Annotated[Caller, Depends(_caller_with("read"))]
Writer = Annotated[Caller, Depends(_caller_with("write"))]
Admin = Annotated[Caller, Depends(_caller_with("admin"))]


def _refuse_unknown(request: Request) -> None:
    """Refuse a parameter that the endpoint does not have, or has once: what is asked for must not be left unheard."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given:
        return
    known = _query_fields(request.scope["route"].dependant)
    faults = dict.fromkeys(sorted(given.keys() - known.keys()), "There is no such parameter.")
    repeated = (name for name, times in given.items() if times > 1 and not known.get(name, True))
    faults |= dict.fromkeys(repeated, "It is given more than once.")
    if faults:
        raise invalid_query(faults)


def _refuse_bytes(query: bytes) -> None:
    """Refuse what is no UTF-8: the framework would put signs in its place that nobody sent."""
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        try:
            unquote_to_bytes(value).decode()
        except UnicodeDecodeError:
            raise invalid_query({unquote(name.decode("latin-1")): "This is no text in UTF-8."}) from None


def _query_fields(dependant: Dependant) -> dict[str, bool]:
    """Tell of each parameter whether it may be given several times."""
    found = {field.alias: get_origin(field.field_info.annotation) is list for field in dependant.query_params}
    for inner in dependant.dependencies:
        found |= _query_fields(inner)
    return found


async def _json_alone(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise Unsupported(f"The body is sent as {JSON}, not as {media_type or 'nothing'}.")


JsonBody = Annotated[None, Depends(_json_alone)]

Limit = Annotated[int, Query(ge=1, le=200, description="Items a page.")]
DEFAULT_LIMIT = 50
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the state to change.")]
_NAME = Query(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
OptionalName = Annotated[str | None, _NAME]


def require_name(name: str | None) -> str:
    """Give the name in the query. Raises ValidationFailed where there is none."""
    if name is None:
        raise invalid_query({"name": "Field required"})
    return name


def refuse_query(request: Request) -> None:
    """Raise ValidationFailed where there is a query beside a body that says everything."""
    if request.query_params:
        raise invalid_query(dict.fromkeys(request.query_params, "A JSON body says everything: there is no query."))


def invalid_query(faults: Mapping[str, str]) -> ValidationFailed:
    """Name what is wrong with each parameter of a query."""
    errors = [
        FieldError(pointer=f"/query/{name.replace('~', '~0').replace('/', '~1')}", message=message)
        for name, message in faults.items()
    ]
    return ValidationFailed("; ".join(f"{it.pointer}: {it.message}" for it in errors), errors=errors)


def shown_once(response: Response) -> None:
    """Say that the answer holds a secret: nobody on the way keeps it, nor does a replay."""
    response.headers["Cache-Control"] = "no-store"


def checked_cursor(prefix: Prefix, cursor: str | None) -> str | None:
    if cursor is not None and not is_id(prefix, cursor):
        raise invalid_query({"cursor": "This is no cursor of this list."})
    return cursor
