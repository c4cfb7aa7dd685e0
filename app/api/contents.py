"""Contents over HTTP: streamed, ranged (RFC 9110), with entity tag and digest (RFC 9530)."""

import base64
import re
from collections.abc import Mapping
from email.utils import quote
from urllib.parse import quote as percent_encode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from app.domain.errors import NotAcceptable, RangeNotSatisfiable
from app.storage import Storage, content_key

_ZIP = b"PK\x03\x04"
_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


async def content(
    request: Request,
    storage: Storage,
    project_id: str,
    sha256: str,
    size_bytes: int,
    *,
    name: str,
    media_type: str,
    more_headers: Mapping[str, str] | None = None,
) -> Response:
    """Stream a content, or the one range of it that is asked for; several ranges answer the whole."""
    tag = f'"{sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "Content-Disposition": disposition("attachment", name),
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        **(more_headers or {}),
    }
    known = {entry.strip().removeprefix("W/") for entry in request.headers.get("if-none-match", "").split(",")}
    if known & {tag, "*"}:
        return Response(status_code=304, headers=headers)
    wanted = None
    if request.headers.get("if-range", tag) == tag:
        wanted = _range(request.headers.get("range", ""), size_bytes)
    start, stop = wanted or (0, size_bytes)
    headers["Content-Length"] = str(stop - start)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
    if getattr(request.state, "head", False):
        return Response(status_code=206 if wanted else 200, headers=headers, media_type=media_type)
    body = await storage.read(content_key(project_id, sha256), start, stop)
    return StreamingResponse(body, 206 if wanted else 200, headers, media_type)


def preferred(request: Request, *media_types: str) -> str | None:
    """Give the one of these that the Accept header likes best (RFC 9110, 12.5.1), the first of equals.

    Null where it takes none; without the header, the first.
    """
    header = request.headers.get("accept", "*/*")
    return parse_accept_header(header, MIMEAccept).best_match(media_types)


def require_acceptable(request: Request, *media_types: str) -> str:
    """Give the preferred one. Raises NotAcceptable."""
    found = preferred(request, *media_types)
    if found is None:
        raise NotAcceptable(f"This can be given as {' or '.join(media_types)} alone.")
    return found


class _OutOfRange(RangeNotSatisfiable):
    """Carries the header that tells the size."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"The content has {size_bytes} bytes.")
        self.headers = {"Content-Range": f"bytes */{size_bytes}"}


def _range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """Read the range as start and stop; null where the header has none that is understood."""
    match = _ONE_RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size_bytes - int(last)), size_bytes
    else:
        start, stop = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < start:
            return None
    if start >= stop:
        raise _OutOfRange(size_bytes)
    return start, stop


def disposition(kind: str, name: str) -> str:
    plain = quote(name.encode("ascii", "replace").decode().replace("\r", "").replace("\n", ""))
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{percent_encode(name, safe='')}"


async def suffix_of(storage: Storage, project_id: str, sha256: str, format_: str) -> str:
    """Give what an uploaded file's name ends in: its format, but for one that two kinds of archives hold."""
    if format_ != "huggingface":
        return format_
    start = b"".join([part async for part in await storage.read(content_key(project_id, sha256), 0, len(_ZIP))])
    return "zip" if start == _ZIP else "tar"


def file_name(name: str, suffix: str) -> str:
    """Name a download: as its user named it, ending in what it is."""
    return name if name.lower().endswith(f".{suffix}") else f"{name}.{suffix}"
