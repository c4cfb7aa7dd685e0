"""Answers that are kept, for requests with an ``Idempotency-Key``, in the transaction of what they tell of.

A process that dies behind the commit has then left the answer, and one that dies before it has left nothing.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.responses import Response

Row = TypeVar("Row")


class Shown(Protocol):
    """What is shown of an object."""

    @property
    def id(self) -> str: ...

    def model_dump_json(self, *, by_alias: bool) -> str: ...


class Passage(Protocol):
    """A request on its way under an ``Idempotency-Key``."""

    async def hear(self, response: Response) -> None:
        """Learn what is going to be answered."""

    def keep(self, session: Session, response: Response | None = None) -> None:
        """Write the answer down, this one or the one that was heard, in a transaction that is about to be committed."""


def keep_answer(request: Request, session: Session, response: Response | None = None) -> None:
    """Keep the answer to a request, where it asked for that."""
    passage: Passage | None = getattr(request.state, "passage", None)
    if passage is not None:
        passage.keep(session, response)


class Answering(APIRoute):
    """Tells what an endpoint answers before the session that it depends on is committed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_and_tell(request: Request) -> Response:
            response = await handle(request)
            passage: Passage | None = getattr(request.state, "passage", None)
            if passage is not None:
                await passage.hear(response)
            return response

        return handle_and_tell


class Making(Generic[Row]):
    """Answers with an object within the transaction that makes it, for endpoints whose service has one of its own."""

    response: Response

    def __init__(
        self, request: Request, under: str, show: Callable[[Row], Shown], status: int = 201, **headers: str
    ) -> None:
        self._request, self._under, self._show = request, under, show
        self._status, self._headers = status, {name.replace("_", "-"): value for name, value in headers.items()}

    def __call__(self, session: Session, row: Row) -> None:
        """Write the answer, with its place in ``Location``, and keep it."""
        shown = self._show(row)
        headers = {**self._headers, "Location": f"{self._under}/{shown.id}"}
        body = shown.model_dump_json(by_alias=True)
        self.response = Response(body, self._status, headers, media_type="application/json")
        keep_answer(self._request, session, self.response)
