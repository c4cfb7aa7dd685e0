"""What a project has used."""

from sqlalchemy.orm import Session

from app.db import usage
from app.db.tables import UsageRow


def of_project(session: Session, project_id: str) -> UsageRow:
    return usage.get(session, project_id)
