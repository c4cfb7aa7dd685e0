"""Who did what: a line for each change to keys and projects, each deletion and each cancellation."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy.orm import Session

from app.db import audit
from app.db.tables import AuditRow
from app.domain.ids import Prefix, new_id
from app.services.callers import Caller

Action = Literal[
    "project.created",
    "project.revoked",
    "key.created",
    "key.rotated",
    "key.revoked",
    "model.deleted",
    "dataset.deleted",
    "upload.deleted",
    "job.deleted",
    "job.cancelled",
    "sweep.cancelled",
    "sweep.deleted",
    "webhook.created",
    "webhook.rotated",
    "webhook.deleted",
]


def record(session: Session, by: Caller | None, action: Action, object_id: str, *, project_id: str) -> None:
    """Write down, in the transaction of the deed itself, what a caller did; null stands for the command line.

    What an operator's key does to another project stands in the trails of both.
    """
    now = datetime.now(UTC)
    for trail in {project_id, by.project_id if by else project_id}:
        row = AuditRow(
            id=new_id(Prefix.AUDIT),
            project_id=trail,
            at=now,
            key_id=by.key_id if by else None,
            request_id=by.request_id if by else None,
            action=action,
            object_id=object_id,
        )
        audit.add(session, row)


def list_page(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[AuditRow]:
    return audit.listed(session, project_id, before=before, limit=limit)
