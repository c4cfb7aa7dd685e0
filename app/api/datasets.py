"""``/datasets``: uploaded data sets."""

from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.contents import content
from app.api.deps import (
    DEFAULT_LIMIT,
    OCTETS,
    Cursor,
    Limit,
    Name,
    PartsDep,
    Reader,
    Reading,
    Wait,
    Writer,
    checked_cursor,
)
from app.api.schemas import DatasetOut, Page
from app.api.uploads import RAW_BODY, ReprDigest, expectation, received
from app.api.waiting import read_until
from app.db.tables import DatasetRow
from app.domain.dataset import DatasetFormat
from app.domain.ids import Prefix
from app.domain.model import ObjectState
from app.services import callers, datasets

router = APIRouter(prefix="/datasets", tags=["datasets"])


@router.post("", status_code=201, openapi_extra=RAW_BODY)
async def create_dataset(
    request: Request,
    response: Response,
    parts: PartsDep,
    caller: Writer,
    name: Name,
    repr_digest: ReprDigest = None,
    asserted: Annotated[DatasetFormat | None, Query(alias="format", description="What the file must be.")] = None,
) -> DatasetOut:
    """Upload a data set as the raw body. Its format is told from the content."""
    expected = expectation(request, parts, repr_digest, asserted)
    incoming = await received(request, parts, expected)
    row = await run_in_threadpool(
        datasets.register, parts.sessions, parts.storage, caller.project_id, name, incoming, expected
    )
    parts.relay.wake()
    response.headers["Location"] = f"{request.url.path}/{row.id}"
    return DatasetOut.of(row)


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
    name = f"{row.name}.{row.format}"
    return await content(
        request, parts.storage, row.project_id, row.sha256, row.size_bytes, name=name, media_type=OCTETS
    )
