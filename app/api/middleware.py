"""What every request passes: it gets an id, a line in the log and safe headers, and its body is bounded."""

import time
from http import HTTPStatus
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.deps import OCTETS, OFFSET_OCTETS
from app.api.errors import problem
from app.domain.errors import OriginRefused, TooLarge
from app.domain.ids import Prefix, new_id

REQUEST_ID = "X-Request-ID"
ASKED_METHOD = "access-control-request-method"


_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NO_PAGE = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
"""For what is no page: a file that a browser is made to show runs and loads nothing."""

log = structlog.get_logger()


class RequestId:
    """Gives each request an id, which the response and every log line carry, and logs how it was answered.

    The log has the path without its query, and no header: neither names nor keys get there.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = new_id(Prefix.REQUEST), time.monotonic(), 0
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        added = {REQUEST_ID: request_id, **_SECURITY, **(_NO_PAGE if scope["path"].startswith(self._prefix) else {})}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in added.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(1000 * (time.monotonic() - began), 1),
                    key_id=state.get("key_id"),
                )


class Cors(CORSMiddleware):
    """Refuses what a page of another origin may not send in the form of every other refusal."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and {"origin", ASKED_METHOD} <= {*headers}:
            answer = self.preflight_response(request_headers=headers)
            if answer.status_code >= HTTPStatus.BAD_REQUEST:
                said = {name: it for name, it in answer.headers.items() if not name.startswith("content-")}
                await problem(OriginRefused(f"{bytes(answer.body).decode()}."), scope, said)(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class Head:
    """Answers HEAD as GET is answered, without the body.

    ``state.head`` tells those endpoints whose body is long that none is wanted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_no_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["state"]["head"] = True
        await self._app({**scope, "method": "GET"}, receive, send_no_body)


class BodyLimit:
    """Reads the body ahead and refuses one over the limit; uploads are streamed and bound themselves."""

    def __init__(self, app: ASGIApp, limit: int, uploads: frozenset[str], resumable: str) -> None:
        self._app = app
        self._limit = limit
        self._uploads = uploads
        self._resumable = f"{resumable}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if self._streams(scope, media_type):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        announced = headers.get("content-length", "")
        more = not (announced.isdecimal() and int(announced) > self._limit)
        over = not more
        while more and not over:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            over = len(body) > self._limit
        if over:
            refusal = TooLarge(
                f"The body has more than {self._limit} bytes, the limit for requests that upload no file."
            )
            await problem(refusal, scope)(scope, receive, send)
            return
        await self._app(scope, _replay(bytes(body), receive), send)

    def _streams(self, scope: Scope, media_type: str) -> bool:
        """Tell whether the body is a file, or a piece of one."""
        if scope["method"] == "PATCH":
            return scope["path"].startswith(self._resumable) and media_type == OFFSET_OCTETS
        return scope["method"] == "POST" and scope["path"] in self._uploads and media_type == OCTETS


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand the body out once, then whatever else comes, such as the disconnection."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
