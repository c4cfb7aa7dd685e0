"""``/projects``: tenants, which see nothing of each other."""

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
from app.api.tenancy_schemas import ProjectIn, ProjectMade, ProjectOut
from app.domain.ids import Prefix
from app.services import projects

router = APIRouter(prefix="/projects", tags=["keys"], route_class=Answering)


@router.post("", status_code=201)
def create_project(
    request: Request, response: Response, session: Writing, caller: Admin, _: JsonBody, asked: ProjectIn
) -> ProjectMade:
    """Make a project and its first admin key, whose text is in this answer alone. For the operator."""
    row, made = projects.make(session, caller, asked.name)
    shown_once(response)
    response.headers["Location"] = f"{request.url.path}/{row.id}"
    return ProjectMade.with_text(row, made)


@router.get("")
def list_projects(
    session: Reading, caller: Admin, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[ProjectOut]:
    """List the projects, newest first: all for the operator, else the key's own."""
    before = checked_cursor(Prefix.PROJECT, cursor)
    rows = projects.list_page(session, caller, before=before, limit=limit + 1)
    return Page.of(rows, limit, ProjectOut.of)


@router.get("/{project_id}")
def get_project(session: Reading, caller: Admin, project_id: str) -> ProjectOut:
    """Show a project."""
    return ProjectOut.of(projects.get(session, caller, project_id))


@router.delete("/{project_id}", status_code=204)
def delete_project(_: EndsKeys, session: Writing, caller: Admin, project_id: str) -> None:
    """Close a project for good: none of its keys works any more. What it holds stays. For the operator."""
    projects.revoke(session, caller, project_id)
