"""``/uploads``: resumable uploads by tus 1.0.0 (https://tus.io/protocols/resumable-upload).

Core, creation, expiration, termination and checksum. Errors are problems as everywhere; clients of tus look at the
status alone.
"""

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.answering import keep_answer
from app.api.deps import DEFAULT_LIMIT, OFFSET_OCTETS, Cursor, Limit, PartsDep, Reader, Writer, checked_cursor
from app.api.schemas import Page
from app.api.upload_schemas import UploadOut
from app.api.uploads import heard
from app.db.tables import UploadRow
from app.domain.errors import Malformed, Unsupported, VersionMismatch
from app.domain.ids import Prefix
from app.domain.tus import CHECKSUMS, parse_checksum

VERSION = "1.0.0"
EXTENSIONS = ("creation", "expiration", "termination", "checksum")
OVERRIDE = "X-HTTP-Method-Override"
ASKED_HEADERS = ("Tus-Resumable", "Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Checksum", OVERRIDE)
TOLD_HEADERS = (
    "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm",
    "Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Expires",
)  # fmt: skip

router = APIRouter(prefix="/uploads", tags=["uploads"])
_PIECE: dict[str, Any] = {OFFSET_OCTETS: {"schema": {"type": "string", "format": "binary"}}}
Resumable = Annotated[str | None, Header(description=f"The version of tus that the client speaks: {VERSION}.")]


class Tus:
    """Says the version with every answer, and takes the method that a client could not send as such."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == self._path or path.startswith(self._path + "/")):
            await self._app(scope, receive, send)
            return
        bodiless = False
        wanted = Headers(scope=scope).get(OVERRIDE, "").upper()
        if scope["method"] == "POST" and wanted in {"PATCH", "DELETE", "HEAD"}:
            scope = {**scope, "method": wanted}
            bodiless = wanted == "HEAD"

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Tus-Resumable"] = VERSION
                if bodiless:
                    # The server knows of a POST alone, whose answer is as long as it says.
                    headers["Content-Length"] = "0"
                    del headers["Content-Type"]
            await send(message)

        await self._app(scope, receive, send_with_version)


@router.options("", status_code=204)
@router.options("/{upload_id}", status_code=204, include_in_schema=False)
def get_upload_options(response: Response, parts: PartsDep) -> None:
    """Tell what of tus is spoken here, and how large an upload may be."""
    response.headers["Tus-Version"] = VERSION
    response.headers["Tus-Extension"] = ",".join(EXTENSIONS)
    response.headers["Tus-Max-Size"] = str(parts.settings.max_upload_bytes)
    response.headers["Tus-Checksum-Algorithm"] = ",".join(CHECKSUMS)


@router.post("", status_code=201, response_class=Response)
async def create_upload(
    request: Request,
    parts: PartsDep,
    caller: Writer,
    tus_resumable: Resumable = None,
    upload_length: Annotated[str | None, Header(description="The size of the whole, in bytes.")] = None,
    upload_metadata: Annotated[str | None, Header(description="`key base64(value), …`; kept and given back.")] = None,
) -> Response:
    """Begin an upload; its address stands in `Location`."""
    _check_version(tus_resumable)
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise Unsupported("An upload begins without a body.", hint="Send the bytes with PATCH.")
    if upload_length is None:
        raise Malformed("Upload-Length is missing.", hint="Tell the size of the whole: it cannot be told later.")
    size_bytes = _number("Upload-Length", upload_length)
    response = Response(status_code=201)

    def tell(session: Session, row: UploadRow) -> None:
        response.headers["Location"] = f"{request.url.path}/{row.id}"
        response.headers["Upload-Expires"] = _date(row.expires_at)
        keep_answer(request, session, response)

    await run_in_threadpool(parts.uploads.create, caller.project_id, size_bytes, upload_metadata or "", tell)
    return response


@router.get("")
def list_uploads(
    parts: PartsDep, caller: Reader, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[UploadOut]:
    """List the uploads that have become neither model nor data set, newest first."""
    before = checked_cursor(Prefix.UPLOAD, cursor)
    rows = parts.uploads.list_page(caller.project_id, before=before, limit=limit + 1)
    return Page.of(rows, limit, UploadOut.of)


@router.get("/{upload_id}")
async def get_upload(
    request: Request,
    response: Response,
    parts: PartsDep,
    caller: Reader,
    upload_id: str,
    tus_resumable: Resumable = None,
) -> UploadOut:
    """Show how far an upload has come. HEAD tells the same by `Upload-Offset` and `Upload-Length`."""
    row = await run_in_threadpool(parts.uploads.get, caller.project_id, upload_id)
    if getattr(request.state, "head", False):
        _check_version(tus_resumable)
        await parts.uploads.settle(upload_id)
        row = await run_in_threadpool(parts.uploads.get, caller.project_id, upload_id)
    _describe(response, row)
    response.headers["Upload-Length"] = str(row.size_bytes)
    if row.details:
        response.headers["Upload-Metadata"] = row.details
    response.headers["Cache-Control"] = "no-store"
    return UploadOut.of(row)


@router.patch("/{upload_id}", status_code=204, openapi_extra={"requestBody": {"required": True, "content": _PIECE}})
async def append_to_upload(
    request: Request,
    response: Response,
    parts: PartsDep,
    caller: Writer,
    upload_id: str,
    tus_resumable: Resumable = None,
    upload_offset: Annotated[str | None, Header(description="Where the piece begins, in bytes.")] = None,
    upload_checksum: Annotated[str | None, Header(description="An algorithm and the base64 of its digest.")] = None,
) -> None:
    """Add a piece at the offset where the upload stands. What came before a cut is kept, unless it has a checksum."""
    await run_in_threadpool(parts.uploads.get, caller.project_id, upload_id)
    _check_version(tus_resumable)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != OFFSET_OCTETS:
        raise Unsupported(f"A piece is sent as {OFFSET_OCTETS}, not as {media_type or 'nothing'}.")
    if upload_offset is None:
        raise Malformed("Upload-Offset is missing.")
    offset, checksum = _number("Upload-Offset", upload_offset), parse_checksum(upload_checksum)
    announced = request.headers.get("content-length")
    body = heard(request, _number("Content-Length", announced) if announced is not None else None)
    row = await parts.uploads.append(caller.project_id, upload_id, offset, checksum, body)
    _describe(response, row)


@router.delete("/{upload_id}", status_code=204)
def delete_upload(parts: PartsDep, caller: Writer, upload_id: str, tus_resumable: Resumable = None) -> None:
    """End an upload, and drop what has come of it."""
    parts.uploads.get(caller.project_id, upload_id)
    _check_version(tus_resumable)
    parts.uploads.remove(caller, upload_id)


def _describe(response: Response, row: UploadRow) -> None:
    response.headers["Upload-Offset"] = str(row.offset_bytes)
    response.headers["Upload-Expires"] = _date(row.expires_at)


def _check_version(version: str | None) -> None:
    if version != VERSION:
        said = "none" if version is None else repr(version[:40])
        raise VersionMismatch(f"Tus-Resumable must be {VERSION}; the request has {said}.")


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise Malformed(f"{name} is no number of bytes: {text[:40]!r}.")
    return int(text)


def _date(time: datetime) -> str:
    return format_datetime(time.astimezone(UTC), usegmt=True)
