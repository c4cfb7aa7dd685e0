"""The raw body of an upload."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from app.api.deps import JSON, OCTETS, Parts
from app.domain.errors import Malformed, TruncatedUpload, Unsupported
from app.services import uploads
from app.services.uploads import Expectation
from app.storage import Incoming

REF = "#/components/schemas/{model}"
Body = TypeVar("Body", bound=BaseModel)
_RAW: dict[str, Any] = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
ReprDigest = Annotated[str | None, Header(description="`sha-256=:<base64>:` (RFC 9530)")]
RAW_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": _RAW}}


def raw_or_json(schema: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is the file itself, or JSON that names what is here already."""
    return {
        "requestBody": {
            "required": True,
            "content": {**_RAW, JSON: {"schema": schema.model_json_schema(ref_template=REF)}},
        }
    }


def is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


async def parsed(request: Request, schema: type[Body]) -> Body:
    """Read a JSON body where the endpoint takes another kind too. Raises what the framework raises of its own."""
    body = await request.body()
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
        raise RequestValidationError(faults) from error


def expectation(request: Request, parts: Parts, repr_digest: str | None, format_: str | None) -> Expectation:
    """Read what the client says of the body before any of it is read."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != OCTETS:
        raise Unsupported(f"An upload is sent as {OCTETS}, not as {media_type or 'nothing'}.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Unsupported("An upload is sent as it is, without a content coding.")
    announced = request.headers.get("content-length")
    if announced is not None and not announced.isdecimal():
        raise Malformed("Content-Length is no number.")
    size_bytes = int(announced) if announced else None
    return Expectation(size_bytes, uploads.parse_digest(repr_digest), format_, parts.settings.max_project_bytes)


async def received(request: Request, parts: Parts, expected: Expectation) -> Incoming:
    """Stream the body into the storage. Nothing is kept where it ends early."""
    limit = min(parts.settings.max_upload_bytes, expected.room_bytes or parts.settings.max_upload_bytes)
    return await uploads.receive(parts.storage, _body(request, expected), expected, limit=limit)


async def _body(request: Request, expected: Expectation) -> AsyncIterator[bytes]:
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            yield chunk
    except ClientDisconnect as error:
        raise TruncatedUpload(f"The connection was cut after {size} bytes.") from error
    if expected.size_bytes not in {None, size}:
        raise TruncatedUpload(f"{size} bytes came of the {expected.size_bytes} that were announced.")
