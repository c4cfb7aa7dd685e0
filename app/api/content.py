"""Downloads with ranges (RFC 9110), entity tags and digests (RFC 9530)."""

import base64
import re
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from app.api.errors import problem
from app.domain.errors import RangeNotSatisfiable
from app.storage import Storage, content_key

_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z", re.ASCII)


async def download(request: Request, storage: Storage, project_id: str, sha256: str, size: int, name: str) -> Response:
    """Answer with a stored content, or the one range of it that is asked for."""
    tag = f'"{sha256}"'
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Repr-Digest": f"sha-256=:{digest}:",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
    }
    if tag in (part.strip() for part in request.headers.get("If-None-Match", "").split(",")):
        return Response(status_code=304, headers=headers)
    span = _span(request.headers.get("Range", ""), size)
    if span is None or request.headers.get("If-Range", tag) != tag:
        span, status = (0, size), 200
    elif span[0] >= span[1]:
        error = RangeNotSatisfiable(f"The content has {size} bytes.")
        return problem(request, error, {"Content-Range": f"bytes */{size}"})
    else:
        status = 206
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
    headers["Content-Length"] = str(span[1] - span[0])
    body = await storage.read(content_key(project_id, sha256), *span)
    return StreamingResponse(body, status, headers, media_type="application/octet-stream")


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Read one range as start and stop; null where there is none that can be honoured, empty where it lies outside."""
    match = _RANGE.match(header.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size if int(last) else 0
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size
