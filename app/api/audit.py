"""``/audit``: who did what in the project."""

from fastapi import APIRouter

from app.api.deps import DEFAULT_LIMIT, Admin, Cursor, Limit, Reading, checked_cursor
from app.api.schemas import Page
from app.api.tenancy_schemas import AuditOut
from app.domain.ids import Prefix
from app.services import audit

router = APIRouter(prefix="/audit", tags=["keys"])


@router.get("")
def list_audit(session: Reading, caller: Admin, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Page[AuditOut]:
    """List what was done to keys and projects, what was deleted and cancelled, newest first."""
    before = checked_cursor(Prefix.AUDIT, cursor)
    rows = audit.list_page(session, caller.project_id, before=before, limit=limit + 1)
    return Page.of(rows, limit, AuditOut.of)
