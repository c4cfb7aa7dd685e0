"""Requests of tus, as a client that keeps to the rules would make them, and connections that do not end."""

import base64
import hashlib
import socket
import time

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream"}


def begin(project, size, **headers):
    response = project.client.post("uploads", headers=TUS | {"Upload-Length": str(size)} | headers)
    assert response.status_code == 201, response.text
    return response.headers["location"].rpartition("/")[2]


def send(project, upload, offset, data, **headers):
    return project.client.patch(
        f"uploads/{upload}", content=data, headers=PIECE | {"Upload-Offset": str(offset)} | headers
    )


def offset_of(project, upload):
    response = project.client.head(f"uploads/{upload}", headers=TUS)
    assert response.status_code == 200, response.status_code
    assert response.headers["cache-control"] == "no-store"
    assert response.content == b""
    return int(response.headers["upload-offset"])


def whole(project, content, **headers):
    upload = begin(project, len(content), **headers)
    assert send(project, upload, 0, content).status_code == 204
    return upload


def draft(project, upload):
    return project.server.parts.settings.data / "objects" / "uploads" / upload


def checksum(algorithm, data):
    digest = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


def connect(project, upload, length, *lines):
    """Open a connection on which a piece of ``length`` bytes is announced and not sent yet."""
    head = [
        f"PATCH /api/v1/uploads/{upload} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {project.key}",
        "Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream", f"Content-Length: {length}", *lines,
    ]  # fmt: skip
    connection = socket.create_connection(("127.0.0.1", project.server.port), timeout=60)
    connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
    return connection


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def free(project, upload):
    return upload not in project.server.parts.uploads._writers


def taken(project, upload):
    return not free(project, upload)
