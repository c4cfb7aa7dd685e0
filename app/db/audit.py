"""The audit trail: rows only come."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.paging import page
from app.db.tables import AuditRow


def add(session: Session, row: AuditRow) -> None:
    session.add(row)
    session.flush()


def listed(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[AuditRow]:
    query = select(AuditRow).where(AuditRow.project_id == project_id)
    return page(session, query, AuditRow.id, before=before, limit=limit)
