"""What every request passes: it gets an id, and its body is bounded."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.deps import OCTETS
from app.api.errors import problem
from app.domain.errors import TooLarge
from app.domain.ids import Prefix, new_id

REQUEST_ID = "X-Request-ID"


class RequestId:
    """Gives each request an id, which the response and every log line carry."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id(Prefix.REQUEST)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Reads the body ahead and refuses one over the limit; uploads are streamed and bound themselves."""

    def __init__(self, app: ASGIApp, limit: int, uploads: frozenset[str]) -> None:
        self._app = app
        self._limit = limit
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and scope["path"] in self._uploads and media_type == OCTETS:
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
