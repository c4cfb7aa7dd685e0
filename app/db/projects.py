"""Projects."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Select, bindparam, case, select
from sqlalchemy.orm import Session

from app.db.paging import page
from app.db.tables import ProjectRow, UsageRow


def by_name(session: Session, name: str) -> ProjectRow | None:
    return session.scalar(select(ProjectRow).where(ProjectRow.name == name))


def get(session: Session, project_id: str) -> ProjectRow | None:
    return session.get(ProjectRow, project_id)


def get_one(session: Session, project_id: str) -> ProjectRow:
    """Get a project that is known to be there."""
    return session.get_one(ProjectRow, project_id)


def add(session: Session, row: ProjectRow) -> None:
    session.add(row)
    session.flush()
    session.add(UsageRow(project_id=row.id))
    session.flush()


def listed(session: Session, *, only: str | None, before: str | None, limit: int) -> Sequence[ProjectRow]:
    query = select(ProjectRow)
    if only is not None:
        query = query.where(ProjectRow.id == only)
    return page(session, query, ProjectRow.id, before=before, limit=limit)


def lock(session: Session, project_id: str) -> bool:
    """Hold the project until the transaction ends; tell whether it is open.

    Whoever drops a reference to stored content, or adds one to content that nothing may refer to, does it under this
    lock, so that content is never deleted between being found and being referred to. Rows that merely name the
    project may be written meanwhile, so that a cancellation waits for no upload.
    """
    return session.connection().scalar(_locking(), {"id": project_id}) is not None


def share(session: Session, project_id: str) -> bool:
    """Keep others from holding the project until the transaction ends, as several may; tell whether it is open.

    It is enough for who refers to a model or a data set: neither is deleted meanwhile.
    """
    return session.connection().scalar(_sharing(), {"id": project_id}) is not None


@cache
def _locking() -> Select[str | None]:
    return _open().with_for_update(key_share=True)


@cache
def _sharing() -> Select[str | None]:
    return _open().with_for_update(read=True)


def _open() -> Select[str | None]:
    # Without a condition on it: a closed project is held too, by whoever clears it away.
    return select(case((ProjectRow.revoked_at.is_(None), ProjectRow.id))).where(ProjectRow.id == bindparam("id"))
