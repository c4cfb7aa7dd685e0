"""The raw body of an upload."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from app.api.deps import JSON, OCTETS, Parts
from app.domain.errors import (
    FieldError,
    Malformed,
    NotFound,
    TruncatedUpload,
    Unsupported,
    UploadIncomplete,
    UploadLocked,
)
from app.services import uploads
from app.services.callers import Caller
from app.services.uploads import Expectation
from app.storage import Incoming

STALL_SECONDS = 30
"""A connection that says nothing for so long is a dead one: what it has begun is in nobody's way any more."""
REF = "#/components/schemas/{model}"
Body = TypeVar("Body", bound=BaseModel)
_RAW: dict[str, Any] = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
ReprDigest = Annotated[str | None, Header(description="`sha-256=:<base64>:` (RFC 9530)")]


def raw_or_json(*schemas: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is the file itself, or JSON that names what is here already."""
    found = [schema.model_json_schema(ref_template=REF) for schema in schemas]
    json_body = found[0] if len(found) == 1 else {"anyOf": found}
    return {"requestBody": {"required": True, "content": {**_RAW, JSON: {"schema": json_body}}}}


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


async def names_upload(request: Request) -> bool:
    """Tell whether a JSON body names a resumable upload; one that cannot be read does not."""
    try:
        body = from_json(await request.body())
    except ValueError:
        return False
    return isinstance(body, dict) and "upload_id" in body


@asynccontextmanager
async def collected(parts: Parts, caller: Caller, upload_id: str) -> AsyncIterator[Incoming]:
    """Give a resumable upload to be kept; a refusal points at where it is named."""
    try:
        async with parts.uploads.collected(caller.project_id, upload_id) as incoming:
            yield incoming
    except (NotFound, UploadIncomplete, UploadLocked) as error:
        error.errors = (FieldError(pointer="/upload_id", message=error.detail),)
        raise


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
    return await uploads.receive(parts.storage, heard(request, expected.size_bytes), expected, limit=limit)


async def heard(request: Request, announced: int | None) -> AsyncIterator[bytes]:
    """Give a body as it comes.

    Raises TruncatedUpload where its connection is cut or falls silent, or it has another size than was announced.
    """
    size, chunks = 0, request.stream()
    try:
        while True:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            size += len(chunk)
            yield chunk
    except (ClientDisconnect, TimeoutError) as error:
        raise TruncatedUpload(f"The connection was cut after {size} bytes.") from error
    if announced not in {None, size}:
        raise TruncatedUpload(f"{size} bytes came of the {announced} that were announced.")
