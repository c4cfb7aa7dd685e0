"""``/datasets``: uploaded data sets."""

from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.api.answering import Making
from app.api.contents import content, file_name
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
from app.api.upload_schemas import DatasetFromUpload, DatasetOut
from app.api.uploads import ReprDigest, collected, expectation, is_json, parsed, raw_or_json, received
from app.api.waiting import read_until
from app.db.tables import DatasetRow
from app.domain.dataset import DatasetFormat, Preprocessing
from app.domain.errors import FieldError, ValidationFailed
from app.domain.ids import Prefix
from app.domain.model import ObjectState
from app.services import callers, datasets
from app.services.uploads import Expectation

router = APIRouter(prefix="/datasets", tags=["datasets"])


@router.post("", status_code=201, response_model=DatasetOut, openapi_extra=raw_or_json(DatasetFromUpload))
async def create_dataset(
    request: Request,
    parts: PartsDep,
    caller: Writer,
    name: OptionalName = None,
    repr_digest: ReprDigest = None,
    asserted: Annotated[DatasetFormat | None, Query(alias="format", description="What the file must be.")] = None,
    preprocessing: Annotated[
        str | None, Query(description="How images become rows: `resize`, `mean` and so on, as JSON.")
    ] = None,
) -> Response:
    """Upload a data set as the raw body, named in the query; or make one of a resumable upload, by JSON.

    Its format is told from the content either way.
    """
    told = Making(request, request.url.path, DatasetOut.of)
    owned = parts.sessions, parts.storage, caller.project_id
    if is_json(request):
        refuse_query(request)
        asked = await parsed(request, DatasetFromUpload)
        expected, steps = Expectation(None, None, asked.format, parts.settings.max_project_bytes), asked.preprocessing
        async with collected(parts, caller, asked.upload_id) as incoming:
            await run_in_threadpool(datasets.register, *owned, asked.name, incoming, expected, steps, told)
    else:
        expected, given = expectation(request, parts, repr_digest, asserted), require_name(name)
        steps = _preprocessing(preprocessing)
        incoming = await received(request, parts, expected)
        await run_in_threadpool(datasets.register, *owned, given, incoming, expected, steps, told)
    parts.relay.wake()
    return told.response


def _preprocessing(text: str | None) -> Preprocessing | None:
    """Read the JSON in the query. Raises ValidationFailed with a pointer below ``/query/preprocessing``."""
    if text is None:
        return None
    try:
        return Preprocessing.model_validate_json(text)
    except ValidationError as error:
        faults: dict[str, str] = {}
        for fault in error.errors(include_url=False):
            # Behind a field stand numbers, and what pydantic calls the kinds of value that it tried.
            place = [str(step) for at, step in enumerate(fault["loc"]) if at == 0 or isinstance(step, int)]
            pointer = "/".join(["/query/preprocessing", *place])
            faults.setdefault(pointer, fault["msg"].removeprefix("Value error, "))
        found = [FieldError(pointer=pointer, message=message) for pointer, message in faults.items()]
        raise ValidationFailed("; ".join(f"{it.pointer}: {it.message}" for it in found), errors=found) from error


@router.get("")
def list_datasets(
    session: Reading,
    caller: Reader,
    state: ObjectState | None = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DatasetOut]:
    """List data sets, newest first."""
    before = checked_cursor(Prefix.DATASET, cursor)
    rows = datasets.list_page(session, caller.project_id, state=state, before=before, limit=limit + 1)
    return Page.of(rows, limit, DatasetOut.of)


@router.get("/{dataset_id}")
async def get_dataset(parts: PartsDep, caller: Reader, dataset_id: str, wait: Wait = 0) -> DatasetOut:
    """Show a data set; with ``wait``, once its inspection has ended."""

    def read() -> DatasetRow:
        with parts.readers() as session:
            callers.require_valid(session, caller)
            return datasets.get(session, caller.project_id, dataset_id)

    watched = parts.watch, caller, dataset_id, read, attrgetter("state")
    return DatasetOut.of(await read_until(*watched, leaves=ObjectState.VALIDATING, seconds=wait))


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(parts: PartsDep, caller: Writer, dataset_id: str) -> None:
    """Delete a data set that no job refers to."""
    datasets.remove(parts.sessions, parts.storage, caller, dataset_id)


@router.get("/{dataset_id}/content", response_class=Response)
async def get_dataset_content(request: Request, parts: PartsDep, caller: Reader, dataset_id: str) -> Response:
    """Download the file as it was uploaded, or one range of it."""

    def read() -> DatasetRow:
        with parts.readers() as session:
            return datasets.get(session, caller.project_id, dataset_id)

    row = await run_in_threadpool(read)
    name = file_name(row.name, row.format)
    return await content(
        request, parts.storage, row.project_id, row.sha256, row.size_bytes, name=name, media_type=OCTETS
    )
