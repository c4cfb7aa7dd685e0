"""Every error as a problem (RFC 9457); the kind of an error decides its status, in one table."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
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
    UnknownMethod,
    UnknownTarget,
    Unsupported,
    ValidationFailed,
    WinnowError,
)

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
    found = [
        FieldError(pointer=_pointer(fault, error.body), message=_message(fault))
        for fault in faults
        if not _follows(fault, faults)
    ]
    detail = "; ".join(f"{item.pointer or '/'}: {item.message}" for item in found)
    return problem(_leaf(faults)(detail, errors=found), request.scope)


async def _on_unforeseen(request: Request, unforeseen: Exception) -> JSONResponse:
    log.error("unforeseen_error", request_id=request.state.request_id, path=request.url.path, exc_info=unforeseen)
    error = InternalError("The service met an error of its own; the request id finds it.")
    # The framework answers this one outside all middleware.
    return problem(error, request.scope, {"X-Request-ID": request.state.request_id})


def _leaf(faults: Sequence[Mapping[str, Any]]) -> type[WinnowError]:
    for fault in faults:
        if fault["type"] == "union_tag_invalid":
            return UnknownMethod
        if fault["type"] == "literal_error" and fault["loc"] == ("body", "target"):
            return UnknownTarget
    return ValidationFailed


def _follows(fault: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a list seems too short only because items of it failed, which have faults of their own."""
    depth = len(fault["loc"])
    return fault["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == fault["loc"] for other in faults
    )


def _message(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "union_tag_invalid":
        context = fault["ctx"]
        return f"There is no method {context['tag']!r}; there are {context['expected_tags']}."
    return str(fault["msg"]).removeprefix("Value error, ")


def _pointer(fault: Mapping[str, Any], body: Any) -> str:
    """Turn pydantic's location into a JSON pointer, without the tags of unions that pydantic puts in between."""
    place, *steps = fault["loc"]
    if place != "body":
        return "/" + "/".join(map(_escape, (place, *steps)))
    kept: list[str | int] = []
    here = body
    for number, step in enumerate(steps, start=1):
        is_tag = isinstance(here, dict) and step not in here and (number < len(steps) or step == here.get("method"))
        # Nothing lies within a plain value: what is named there is a kind of value that it could have been.
        is_tag = is_tag or isinstance(here, str | int | float) or (isinstance(here, list) and isinstance(step, str))
        if is_tag or step == "[key]":
            continue
        kept.append(step)
        here = _member(here, step)
    if fault["type"].startswith("union_tag"):
        kept.append("method")
    return "".join(f"/{_escape(step)}" for step in kept)


def _member(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _escape(step: str | int) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")
