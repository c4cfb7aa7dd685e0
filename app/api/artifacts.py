"""``/artifacts``: the files that jobs left."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.contents import content
from app.api.deps import OCTETS, PartsDep, Reader, Reading
from app.api.schemas import ArtifactOut
from app.db.tables import ArtifactRow
from app.services import artifacts

ZSTANDARD = "application/zstd"
"""RFC 8878. The file itself is compressed: no encoding that a client would undo on its way."""

router = APIRouter(prefix="/artifacts", tags=["artifacts"])


@router.get("/{artifact_id}")
def get_artifact(session: Reading, caller: Reader, artifact_id: str) -> ArtifactOut:
    """Show an artifact."""
    return ArtifactOut.of(artifacts.get(session, caller.project_id, artifact_id))


@router.get("/{artifact_id}/content", response_class=Response)
async def get_artifact_content(request: Request, parts: PartsDep, caller: Reader, artifact_id: str) -> Response:
    """Download an artifact, or one range of it."""

    def read() -> ArtifactRow:
        with parts.readers() as session:
            return artifacts.get(session, caller.project_id, artifact_id)

    row = await run_in_threadpool(read)
    media_type = ZSTANDARD if row.name.endswith(".zst") else OCTETS
    return await content(
        request, parts.storage, row.project_id, row.sha256, row.size_bytes, name=row.name, media_type=media_type
    )
