"""Uploads that are refused: each with a code of its own, and nothing is left behind."""

import base64
import hashlib
import pickle
import socket
import time

import pytest

from app.api import uploads
from tests.factories import archive, npz, pt2, safetensors
from tests.serving import MAX_UPLOAD_BYTES, pointers, problem, slowly

pytestmark = pytest.mark.usefixtures("unchanged")

UNKNOWN = {
    "text": b"this is no network at all",
    "image": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "pickle": pickle.dumps({"weight": [1.0] * 99}, protocol=2),
    "checkpoint": archive("net/data.pkl", "net/data/0"),
    "torchscript": archive("net/code/__torch__.py", "net/data.pkl"),
    "aotinductor": archive("net/models/model.json", "net/data/aotinductor/model/a.so"),
    "documents": archive("word/document.xml"),
    "almost safetensors": (9).to_bytes(8, "little") + b'{"a": 1} ' + bytes(9),
}


@pytest.mark.parametrize("noun", ["models", "datasets"])
@pytest.mark.parametrize("content", UNKNOWN.values(), ids=UNKNOWN)
def test_a_file_in_no_known_format(project, noun, content):
    body = problem(project.upload(noun, content), 415, "unknown_format")
    if content[0] == 0x80 or (content[:2] == b"PK" and b".pkl" in content):
        assert "torch.export" in body["hint"]


@pytest.mark.parametrize(("noun", "make"), [("models", npz), ("models", safetensors), ("datasets", pt2)])
def test_a_known_format_in_the_wrong_place(project, noun, make):
    problem(project.upload(noun, make()), 415, "unknown_format")


def test_a_format_that_is_not_the_one_asserted(project):
    assert (
        "npz"
        in problem(project.upload("datasets", npz(), params={"format": "safetensors"}), 415, "unknown_format")["detail"]
    )


CUTS = [1, 20, 50, 200, 500, 2000]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("noun", "make"), [("models", pt2), ("datasets", npz), ("datasets", safetensors)])
def test_a_file_that_was_cut(project, noun, make, cut):
    content = make()
    problem(project.upload(noun, content[:-cut] if cut < len(content) else b""), 400, "truncated_upload")


@pytest.mark.parametrize("announced", [f"Content-Length: {10**6}", "Transfer-Encoding: chunked"])
def test_a_connection_that_was_cut(project, announced):
    request = (
        f"POST /api/v1/models?name=m HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {project.key}\r\n"
        f"Content-Type: application/octet-stream\r\n{announced}\r\n\r\n"
    )
    content = pt2()
    if "chunked" in announced:
        content = f"{len(content):x}\r\n".encode() + content + b"\r\n"
    with socket.create_connection(("127.0.0.1", project.server.port)) as connection:
        connection.sendall(request.encode() + content)
        time.sleep(0.1)
    time.sleep(0.3)  # until the server has noticed


@pytest.mark.parametrize("path", ["models?name=m", "datasets?name=d"])
def test_a_connection_that_falls_silent(project, path, monkeypatch):
    """Its other end may be gone without a word: neither what came nor the connection is kept for ever."""
    monkeypatch.setattr(uploads, "STALL_SECONDS", 0.3)
    request = (
        f"POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {project.key}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", project.server.port), timeout=5) as connection:
        connection.sendall(request.encode() + pt2())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"truncated_upload" in answer


def digest(content):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_a_digest_that_does_not_match(project):
    response = project.upload("models", pt2(), headers={"Repr-Digest": digest(b"else")})
    problem(response, 400, "digest_mismatch")


@pytest.mark.parametrize(
    "header", ["sha-256=abc", "sha-256=:???:", "sha-256=:AAAA:", "sha-256=:QUFB", b"sha-256=:\xe9:"]
)
def test_a_digest_that_is_none(project, header):
    problem(project.upload("models", pt2(), headers={"Repr-Digest": header}), 400, "malformed_request")


@pytest.mark.parametrize("send", [bytes, slowly], ids=["announced", "chunked"])
def test_an_upload_over_the_limit(project, send):
    body = problem(project.upload("models", send(bytes(MAX_UPLOAD_BYTES + 1))), 413, "too_large")
    assert str(MAX_UPLOAD_BYTES) in body["detail"]


def test_an_upload_that_announces_too_much_is_refused_before_it_is_sent(project):
    request = (
        f"POST /api/v1/models?name=m HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {project.key}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {10**12}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", project.server.port), timeout=60) as connection:
        connection.sendall(request.encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
def test_an_upload_of_another_media_type(project, headers):
    problem(project.upload("models", pt2(), headers=headers), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "query", [{"name": ""}, {"name": "a\nb"}, {"name": "a\0b"}, {"name": "n" * 201}, {"format": "h5"}]
)
def test_an_upload_with_an_impossible_query(project, query):
    body = problem(project.upload("models", pt2(), params=query), 422, "validation_failed")
    assert pointers(body) == [f"/query/{next(iter(query))}"]
