"""Projects."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import ProjectRow


def by_name(session: Session, name: str) -> ProjectRow | None:
    return session.scalar(select(ProjectRow).where(ProjectRow.name == name))


def add(session: Session, row: ProjectRow) -> None:
    session.add(row)
    session.flush()


def lock(session: Session, project_id: str) -> None:
    """Hold the project until the transaction ends.

    Whoever adds or drops a reference to stored content does it under this lock, so that
    content is never deleted between being found and being referred to.
    """
    session.execute(select(ProjectRow.id).where(ProjectRow.id == project_id).with_for_update())
