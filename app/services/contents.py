"""Stored contents and their end."""

from app.db import contents, projects
from app.db.engine import Sessions
from app.storage import Storage, content_key


def release(sessions: Sessions, storage: Storage, project_id: str, sha256: str) -> bool:
    """Delete a content unless something still refers to it; tell whether it went.

    Call it after the commit that dropped the reference: should the process die in between,
    what stays is a spare file, never an object without its content.
    """
    with sessions.begin() as session:
        projects.lock(session, project_id)
        if contents.referred_to(session, project_id, sha256):
            return False
        storage.delete(content_key(project_id, sha256))
        contents.discount(session, project_id, sha256)
        return True
