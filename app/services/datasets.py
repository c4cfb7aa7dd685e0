"""Uploaded data sets."""

from collections.abc import Callable, Sequence
from typing import get_args

from sqlalchemy.orm import Session

from app.db import datasets, projects
from app.db.engine import Sessions
from app.db.tables import DatasetRow
from app.domain.dataset import FOLDERS, WITH_IMAGES, DatasetFormat, Preprocessing
from app.domain.errors import FieldError, InUse, NotFound, ValidationFailed
from app.domain.ids import Prefix, is_id
from app.domain.model import ObjectState
from app.services import audit, contents, uploads
from app.services.callers import Caller
from app.services.uploads import Expectation
from app.storage import Incoming, Storage

FORMATS = get_args(DatasetFormat)


def register(
    sessions: Sessions,
    storage: Storage,
    project_id: str,
    name: str,
    incoming: Incoming,
    expected: Expectation,
    preprocessing: Preprocessing | None,
    tell: Callable[[Session, DatasetRow], None],
) -> None:
    """Keep an upload as a data set that waits for its inspection; ``tell`` is called in the transaction."""
    with uploads.admitted(storage, incoming, expected, FORMATS) as format_:
        if preprocessing is not None and format_ not in WITH_IMAGES:
            message = f"A .{format_} file holds tensors: there is nothing to preprocess."
            raise ValidationFailed(message, errors=[FieldError(pointer="/preprocessing", message=message)])
        if preprocessing is None and format_ in FOLDERS:
            preprocessing = Preprocessing()
        row = DatasetRow(
            **uploads.describe(Prefix.DATASET, project_id, name, format_, incoming),
            preprocessing=None if preprocessing is None else preprocessing.model_dump(mode="json"),
        )

        def add(session: Session) -> str:
            datasets.add(session, row)
            tell(session, row)
            return row.id

        uploads.keep(sessions, storage, incoming, project_id, "dataset", add, room_bytes=expected.room_bytes)


def get(session: Session, project_id: str, dataset_id: str) -> DatasetRow:
    row = datasets.get(session, project_id, dataset_id) if is_id(Prefix.DATASET, dataset_id) else None
    if row is None:
        raise NotFound(f"There is no data set {dataset_id!r}.")
    return row


def list_page(
    session: Session, project_id: str, *, state: ObjectState | None, before: str | None, limit: int
) -> Sequence[DatasetRow]:
    return datasets.listed(session, project_id, state=state, before=before, limit=limit)


def remove(sessions: Sessions, storage: Storage, by: Caller, dataset_id: str) -> None:
    """Delete a data set that no job refers to, and its content with it."""
    with sessions.begin() as session:
        projects.lock(session, by.project_id)
        row = get(session, by.project_id, dataset_id)
        if datasets.in_use(session, row.id):
            raise InUse("Jobs refer to this data set.", hint="Delete the jobs first.")
        datasets.delete(session, row)
        audit.record(session, by, "dataset.deleted", row.id, project_id=by.project_id)
    contents.release(sessions, storage, by.project_id, row.sha256)
