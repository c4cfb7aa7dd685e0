"""``/keys``: who may ask what of the project."""

from fastapi import APIRouter, Request, Response

from app.api.answering import Answering
from app.api.deps import (
    DEFAULT_LIMIT,
    Admin,
    Cursor,
    EndsKeys,
    JsonBody,
    Limit,
    Reading,
    Writing,
    checked_cursor,
    shown_once,
)
from app.api.schemas import Page
from app.api.tenancy_schemas import KeyIn, KeyMade, KeyOut
from app.domain.ids import Prefix
from app.services import keys, projects

router = APIRouter(prefix="/keys", tags=["keys"], route_class=Answering)


@router.post("", status_code=201)
def create_key(
    request: Request, response: Response, session: Writing, caller: Admin, _: JsonBody, asked: KeyIn
) -> KeyMade:
    """Make a key; its text is in this answer alone. The operator may make one of another project."""
    project = projects.for_key(session, caller, asked.project_id)
    made = keys.make(session, caller, project.id, asked.scopes, name=asked.name, expires_at=asked.expires_at)
    shown_once(response)
    response.headers["Location"] = f"{request.url.path}/{made.row.id}"
    return KeyMade.with_text(made)


@router.get("")
def list_keys(session: Reading, caller: Admin, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Page[KeyOut]:
    """List the project's keys, newest first, revoked ones too."""
    before = checked_cursor(Prefix.KEY, cursor)
    rows = keys.list_page(session, caller.project_id, before=before, limit=limit + 1)
    return Page.of(rows, limit, KeyOut.of)


@router.get("/{key_id}")
def get_key(session: Reading, caller: Admin, key_id: str) -> KeyOut:
    """Show a key, never its text."""
    return KeyOut.of(keys.get(session, caller.project_id, key_id))


@router.delete("/{key_id}", status_code=204)
def delete_key(_: EndsKeys, session: Writing, caller: Admin, key_id: str) -> None:
    """Revoke a key for good, within a second in every process; it stays in the list."""
    keys.revoke(session, caller, key_id)


@router.post("/{key_id}:rotate")
def rotate_key(_: EndsKeys, response: Response, session: Writing, caller: Admin, key_id: str) -> KeyMade:
    """Give a key another text, which is in this answer alone; the one before stops working within a second."""
    made = keys.rotate(session, caller, key_id)
    shown_once(response)
    return KeyMade.with_text(made)
