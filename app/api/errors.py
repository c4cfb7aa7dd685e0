"""Every error as a problem (RFC 9457); the kind of an error decides its status, in one table."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from app.domain.errors import (
    FieldError,
    InternalError,
    Kind,
    Limited,
    Malformed,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unavailable,
    Unsupported,
    WinnowError,
)
from app.domain.faults import field_errors, leaf, message, pointer_to, told
from app.storage import StoreError

MEDIA_TYPE = "application/problem+json"
STATUS: dict[Kind, int] = {
    Kind.MALFORMED: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD_NOT_ALLOWED: 405,
    Kind.NOT_ACCEPTABLE: 406,
    Kind.CONFLICT: 409,
    Kind.PRECONDITION: 412,
    Kind.TOO_LARGE: 413,
    Kind.UNSUPPORTED: 415,
    Kind.UNSATISFIABLE: 416,
    Kind.INVALID: 422,
    Kind.LOCKED: 423,
    Kind.LIMITED: 429,
    Kind.CHECKSUM: 460,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
}
_HEADERS: dict[Kind, dict[str, str]] = {
    Kind.UNAUTHENTICATED: {"WWW-Authenticate": "Bearer"},
    Kind.UNAVAILABLE: {"Retry-After": "5"},
}
_FROM_FRAMEWORK: dict[int, type[WinnowError]] = {
    400: Malformed,
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
    415: Unsupported,
}

AWAY: tuple[type[Exception], ...] = (OperationalError, InterfaceError, NoConnection, StoreError)
"""What the database and the storage throw where they cannot be reached, or are kept busy for too long."""

log = structlog.get_logger()


class Problem(BaseModel):
    """What every error answers."""

    type: str = Field(examples=["urn:winnow:problem:not_found"])
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="A stable slug.")
    request_id: str
    hint: str | None = None
    errors: list[FieldError] = []


def install(app: FastAPI) -> None:
    app.add_exception_handler(WinnowError, _on_own)
    for away in AWAY:
        app.add_exception_handler(away, _on_away)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_framework)
    app.add_exception_handler(Exception, _on_unforeseen)


def problem(error: WinnowError, scope: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Render an error for the request of this ASGI scope."""
    body = Problem(
        type=f"urn:winnow:problem:{error.code}",
        title=error.title,
        status=STATUS[error.kind],
        detail=error.detail,
        instance=scope["path"],
        code=error.code,
        request_id=scope["state"]["request_id"],
        hint=error.hint,
        errors=list(error.errors),
    )
    return JSONResponse(
        body.model_dump(mode="json"),
        body.status,
        {**_HEADERS.get(error.kind, {}), **_retry_after(error), **error.headers, **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def _retry_after(error: WinnowError) -> dict[str, str]:
    return {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, Limited) else {}


async def _on_own(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WinnowError)
    if STATUS[error.kind] >= 500:
        log.error("service_error", code=error.code, detail=error.detail, request_id=request.state.request_id)
    return problem(error, request.scope)


def unavailable(error: Exception, request_id: str) -> Unavailable:
    """Log one of AWAY, and give what the caller is told: nothing of what lies behind."""
    what = "storage" if isinstance(error, StoreError) else "database"
    log.error("part_away", part=what, request_id=request_id, exc_info=error)
    return Unavailable(f"The {what} cannot be reached.")


async def _on_away(request: Request, error: Exception) -> JSONResponse:
    return problem(unavailable(error, request.state.request_id), request.scope)


async def _on_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    leaf = _FROM_FRAMEWORK.get(error.status_code, InternalError)
    details = {
        404: f"There is nothing at {request.url.path}.",
        405: f"{request.method} is not for {request.url.path}.",
    }
    # The router's own Allow header tells of one route alone, and a path has a route for each method.
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return problem(leaf(details.get(error.status_code, str(error.detail))), request.scope, headers)


def _allowed(request: Request) -> str:
    routes = request.app.router.routes
    found = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    # An id might hold a colon for all that the router knows; what is asked for is the action behind it.
    if (action := request.url.path.rpartition("/")[2].partition(":")[2]) and "POST" in found:
        paths: Mapping[str, Any] = request.app.openapi()["paths"]
        found = ["POST"] if any(path.endswith(f"}}:{action}") for path in paths) else found
    return ", ".join([*found, "HEAD"] if "GET" in found else found)


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults: Sequence[Mapping[str, Any]] = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return problem(Malformed("The body is not valid JSON."), request.scope)
    outside = [fault for fault in faults if fault["loc"][0] != "body"]
    inside = [{**fault, "loc": fault["loc"][1:]} for fault in faults if fault["loc"][0] == "body"]
    found = [FieldError(pointer=pointer_to(fault["loc"]), message=message(fault)) for fault in outside]
    found += field_errors(inside, error.body)
    return problem(leaf(inside)(told(found), errors=found), request.scope)


async def _on_unforeseen(request: Request, unforeseen: Exception) -> JSONResponse:
    log.error("unforeseen_error", request_id=request.state.request_id, path=request.url.path, exc_info=unforeseen)
    error = InternalError("The service met an error of its own; the request id finds it.")
    # The framework answers this one outside all middleware.
    return problem(error, request.scope, {"X-Request-ID": request.state.request_id})
