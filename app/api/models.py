"""``/models``: uploaded models."""

from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.answering import Making
from app.api.contents import content, file_name, suffix_of
from app.api.deps import (
    DEFAULT_LIMIT,
    OCTETS,
    Cursor,
    Limit,
    OptionalName,
    PartsDep,
    Reader,
    Reading,
    Wait,
    Writer,
    checked_cursor,
    refuse_query,
    require_name,
)
from app.api.schemas import Page
from app.api.upload_schemas import LayersOut, ModelFromArtifact, ModelFromUpload, ModelOut
from app.api.uploads import ReprDigest, collected, expectation, is_json, names_upload, parsed, raw_or_json, received
from app.api.waiting import read_until
from app.db.tables import ModelRow
from app.domain.ids import Prefix
from app.domain.model import ModelFormat, ObjectState
from app.services import callers, models
from app.services.uploads import Expectation

router = APIRouter(prefix="/models", tags=["models"])


@router.post(
    "", status_code=201, response_model=ModelOut, openapi_extra=raw_or_json(ModelFromArtifact, ModelFromUpload)
)
async def create_model(
    request: Request,
    parts: PartsDep,
    caller: Writer,
    name: OptionalName = None,
    repr_digest: ReprDigest = None,
    asserted: Annotated[ModelFormat | None, Query(alias="format", description="What the file must be.")] = None,
) -> Response:
    """Upload a model as the raw body, named in the query; or make one of a resumable upload or an artifact, by JSON.

    Its format is told from the content either way.
    """
    told = Making(request, request.url.path, ModelOut.of)
    owned = parts.sessions, parts.storage, caller.project_id
    if is_json(request) and await names_upload(request):
        refuse_query(request)
        named = await parsed(request, ModelFromUpload)
        expected = Expectation(None, None, named.format, parts.settings.max_project_bytes)
        async with collected(parts, caller, named.upload_id) as incoming:
            await run_in_threadpool(models.register, *owned, named.name, incoming, expected, told)
    elif is_json(request):
        refuse_query(request)
        asked = await parsed(request, ModelFromArtifact)
        await run_in_threadpool(models.register_artifact, *owned, asked.name, asked.artifact_id, told)
    else:
        expected, given = expectation(request, parts, repr_digest, asserted), require_name(name)
        incoming = await received(request, parts, expected)
        await run_in_threadpool(models.register, *owned, given, incoming, expected, told)
    parts.relay.wake()
    return told.response


@router.get("")
def list_models(
    session: Reading,
    caller: Reader,
    state: ObjectState | None = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ModelOut]:
    """List models, newest first."""
    before = checked_cursor(Prefix.MODEL, cursor)
    rows = models.list_page(session, caller.project_id, state=state, before=before, limit=limit + 1)
    return Page.of(rows, limit, ModelOut.of)


@router.get("/{model_id}")
async def get_model(parts: PartsDep, caller: Reader, model_id: str, wait: Wait = 0) -> ModelOut:
    """Show a model; with ``wait``, once its inspection has ended."""

    def read() -> ModelRow:
        with parts.readers() as session:
            callers.require_valid(session, caller)
            return models.get(session, caller.project_id, model_id)

    watched = parts.watch, caller, model_id, read, attrgetter("state")
    return ModelOut.of(await read_until(*watched, leaves=ObjectState.VALIDATING, seconds=wait))


@router.delete("/{model_id}", status_code=204)
def delete_model(parts: PartsDep, caller: Writer, model_id: str) -> None:
    """Delete a model that no job refers to."""
    models.remove(parts.sessions, parts.storage, caller, model_id)


@router.get("/{model_id}/content", response_class=Response)
async def get_model_content(request: Request, parts: PartsDep, caller: Reader, model_id: str) -> Response:
    """Download the file as it was uploaded, or one range of it."""

    def read() -> ModelRow:
        with parts.readers() as session:
            return models.get(session, caller.project_id, model_id)

    row = await run_in_threadpool(read)
    name = file_name(row.name, await suffix_of(parts.storage, row.project_id, row.sha256, row.format))
    return await content(
        request, parts.storage, row.project_id, row.sha256, row.size_bytes, name=name, media_type=OCTETS
    )


@router.get("/{model_id}/layers")
def get_model_layers(session: Reading, caller: Reader, model_id: str) -> LayersOut:
    """List the layers with weights, and what can be done to each."""
    return LayersOut.model_validate({"items": models.layers_of(session, caller.project_id, model_id)})
