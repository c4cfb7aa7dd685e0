"""``Idempotency-Key`` on every POST. The answer is kept in the transaction of what it tells of (``answering.py``).

A payload is its path, query and media type, what the headers of tus say, and the digest of its body, taken while the
body passes through: an upload is never held in memory.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.deps import Parts, authenticated
from app.api.errors import AWAY, problem, unavailable
from app.domain.errors import TruncatedUpload, Unauthenticated, WinnowError
from app.services import idempotency
from app.services.callers import Caller
from app.services.idempotency import Answer, Claim
from app.storage import check_size

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_RENEW_SECONDS = 15
_KEPT_HEADERS = ("content-type", "location", "retry-after", "cache-control", "upload-expires")
_PAYLOAD_HEADERS = ("upload-length", "upload-metadata")
"""What begins a resumable upload says in headers, without a body."""
_SECRETS = ("key", "secret")
"""The names of the fields of bodies that are shown once."""

log = structlog.get_logger()


_DESCRIBED: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": idempotency.KEY_PATTERN},
    "description": "Sent again within 24 hours with the same payload, the request is answered as the first was.",
}


def describe(document: dict[str, Any], prefix: str) -> None:
    """Write the header into every POST of an OpenAPI document, once."""
    for path, methods in document["paths"].items():
        if path.startswith(prefix) and "post" in methods:
            parameters = methods["post"].setdefault("parameters", [])
            if _DESCRIBED not in parameters:
                parameters.append(_DESCRIBED)


class Idempotency:
    """Answers a POST that is sent again as it answered the first."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(self._prefix)
        key = Headers(scope=scope).get(HEADER) if asked else None
        if key is None:
            await self._app(scope, receive, send)
            return
        try:
            caller = await _caller(scope)
            if caller is None:
                # Without a valid key the endpoint refuses, whatever was sent.
                await self._app(scope, receive, send)
                return
            scope["state"]["key_id"] = caller.key_id
            idempotency.check_key(key)
            parts: Parts = scope["app"].state.parts
            found = await run_in_threadpool(idempotency.begin, parts.sessions, caller, key)
            if isinstance(found, Claim):
                await _Passage(parts, found, scope, receive, send).run(self._app)
                return
            # What is carried out is counted where it is authorized; a replay is not.
            parts.rates.hit(caller.project_id)
            body = _Body(scope, receive)
            found.check(await body.drained(parts.settings.max_upload_bytes))
            response = Response(found.body, found.status, {**found.headers, REPLAYED: "true"})
        except WinnowError as error:
            response = problem(error, scope)
        except AWAY as error:
            response = problem(unavailable(error, scope["state"]["request_id"]), scope)
        await response(scope, receive, send)


class _Body:
    """A body on its way, and its fingerprint once it has passed."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        media_type = headers.get("content-type", "")
        self._receive = receive
        self._digest = hashlib.sha256()
        self.ended = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        said = [[name, headers[name]] for name in _PAYLOAD_HEADERS if name in headers]
        self._head = json.dumps([scope["path"], scope["query_string"].decode("latin-1"), media_type, *said])

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._digest.update(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        return message

    async def drained(self, limit: int) -> str:
        """Read what has not been read yet, and give the fingerprint. Raises TooLarge or TruncatedUpload."""
        size = 0
        while not self.ended:
            message = await self.receive()
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                raise TruncatedUpload(f"The connection was cut after {size} bytes.")
            check_size(size, limit)
        return self.fingerprint()

    def fingerprint(self) -> str:
        """Give the fingerprint of what has ended."""
        return hashlib.sha256(self._head.encode() + self._digest.digest()).hexdigest()


class _Passage:
    """One request carried out under its claim."""

    def __init__(self, parts: Parts, claim: Claim, scope: Scope, receive: Receive, send: Send) -> None:
        self._parts, self._claim = parts, claim
        self._scope, self._send = scope, send
        self._body = _Body(scope, receive)
        self._start: Message | None = None
        self._answer = bytearray()
        self._heard: Response | None = None
        self._kept = False
        scope["state"]["passage"] = self

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer, and keep the answer before it is sent; free the key where it is a refusal."""
        succeeded = False
        renewing = asyncio.create_task(self._renew())
        try:
            await app(self._scope, self._body.receive, self._collect)
            if self._start is not None and 200 <= self._start["status"] < 300:
                if not self._kept:
                    # Nothing was committed that could have taken the answer along.
                    fingerprint = await self._body.drained(self._parts.settings.max_upload_bytes)
                    answer = _answer(fingerprint, self._start["status"], self._start["headers"], bytes(self._answer))
                    await run_in_threadpool(idempotency.complete, self._parts.sessions, self._claim, answer)
                succeeded = True
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing
            if not succeeded:
                await run_in_threadpool(idempotency.abandon, self._parts.sessions, self._claim)
        if self._start is not None:
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": bytes(self._answer)})

    async def hear(self, response: Response) -> None:
        """Learn what is going to be answered, and read what the endpoint has left of the body."""
        await self._body.drained(self._parts.settings.max_upload_bytes)
        self._heard = response

    def keep(self, session: Session, response: Response | None = None) -> None:
        """Write the answer down in the transaction of what it tells of.

        Raises IdempotencyInFlight where the request took so long that another has its key: nothing is done twice.
        """
        response = response if response is not None else self._heard
        if response is None or not 200 <= response.status_code < 300 or not self._body.ended:
            return
        raw = response.raw_headers
        answer = _answer(self._body.fingerprint(), response.status_code, raw, bytes(response.body))
        if not idempotency.fill(session, self._claim, answer):
            raise idempotency.in_flight()
        self._kept = True

    async def _renew(self) -> None:
        """Keep the claim for as long as the request takes: to send its body, and to do what is asked behind that."""
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                await run_in_threadpool(idempotency.renew, self._parts.sessions, self._claim)
            except SQLAlchemyError as error:  # the next may hold, and the lease is four times as long
                log.warning("renewal_failing", error=str(error))

    async def _collect(self, message: Message) -> None:
        """Hold back the answer, which is small for every POST."""
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._answer += message.get("body", b"")


async def _caller(scope: Scope) -> Caller | None:
    """Tell who asks; null where it is nobody."""
    scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    parts: Parts = scope["app"].state.parts
    try:
        return await authenticated(parts, token.strip() if scheme.lower() == "bearer" else None)
    except Unauthenticated:
        return None


def _answer(fingerprint: str, status: int, raw_headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Answer:
    """Give what is kept of an answer: of one that is not to be stored, all but the secret."""
    found = Headers(raw=list(raw_headers))
    headers = {name: found[name] for name in _KEPT_HEADERS if name in found}
    if found.get("cache-control") == "no-store":
        shown = json.loads(body)
        body = json.dumps({**shown, **{name: None for name in _SECRETS if name in shown}}).encode()
    return Answer(fingerprint, status, headers, body)
