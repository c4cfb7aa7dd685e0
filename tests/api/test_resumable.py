"""The rules of tus 1.0.0, one by one, over HTTP."""

import hashlib
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest

from app.db.tables import UploadRow
from app.domain.ids import Prefix, new_id
from app.services.resumable import clear_expired, clear_orphans
from tests.factories import npz, pt2
from tests.serving import MAX_UPLOAD_BYTES, pointers, problem, serving
from tests.tus import PIECE, TUS, begin, checksum, draft, offset_of, send, until, whole


def test_options_tell_what_is_spoken_to_everybody(server, project):
    for path in ("uploads", "uploads/upl_any"):
        response = httpx.options(f"{server.url}/api/v1/{path}")
        assert response.status_code == 204
        assert response.headers["tus-resumable"] == "1.0.0"
        assert response.headers["tus-version"] == "1.0.0"
        assert response.headers["tus-extension"] == "creation,expiration,termination,checksum"
        assert response.headers["tus-max-size"] == str(MAX_UPLOAD_BYTES)
        assert response.headers["tus-checksum-algorithm"] == "sha1,sha256,sha512"


@pytest.mark.parametrize(("noun", "make"), [("models", pt2), ("datasets", npz)])
def test_an_upload_in_pieces_becomes_a_model_or_a_data_set(project, noun, make):
    content = make()
    metadata = "filename bcOpdC5wdDI=,empty"
    upload = begin(project, len(content), **{"Upload-Metadata": metadata})
    for start in range(0, len(content), 700):
        response = send(project, upload, start, content[start : start + 700])
        assert response.status_code == 204
        assert response.headers["upload-offset"] == str(min(start + 700, len(content)))
        assert response.headers["tus-resumable"] == "1.0.0"
    head = project.client.head(f"uploads/{upload}", headers=TUS)
    assert (head.headers["upload-length"], head.headers["upload-metadata"]) == (str(len(content)), metadata)
    shown = project.client.get(f"uploads/{upload}").json()
    assert shown["metadata"] == {"filename": "mét.pt2", "empty": ""}
    assert (shown["size_bytes"], shown["offset_bytes"]) == (len(content), len(content))
    assert [item["id"] for item in project.client.get("uploads").json()["items"]] == [upload]
    response = project.client.post(noun, json={"name": "in pieces", "upload_id": upload})
    assert response.status_code == 201
    item = response.json()
    assert (item["name"], item["sha256"]) == ("in pieces", hashlib.sha256(content).hexdigest())
    assert project.client.get(f"{noun}/{item['id']}/content").content == content
    problem(project.client.get(f"uploads/{upload}"), 404, "not_found")
    assert not draft(project, upload).exists()
    body = problem(project.client.post(noun, json={"name": "again", "upload_id": upload}), 404, "not_found")
    assert pointers(body) == ["/upload_id"]


def test_lists_are_paged(project):
    ids = [begin(project, 5) for _ in range(3)]
    first = project.client.get("uploads", params={"limit": 2}).json()
    last = project.client.get("uploads", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in (*first["items"], *last["items"])] == ids[::-1]


@pytest.mark.parametrize("headers", [{}, {"Tus-Resumable": "0.2.2"}])
def test_another_version_is_refused(project, headers):
    upload = begin(project, 4)
    for method, path in (("POST", "uploads"), ("PATCH", f"uploads/{upload}"), ("DELETE", f"uploads/{upload}")):
        response = project.client.request(method, path, headers={"Upload-Length": "4"} | headers)
        problem(response, 412, "version_mismatch")
        assert response.headers["tus-version"] == "1.0.0"
    assert project.client.head(f"uploads/{upload}", headers=headers).status_code == 412
    assert offset_of(project, upload) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Defer-Length": "1"},
        {"Upload-Length": "-1"},
        {"Upload-Length": "many"},
        {"Upload-Length": "9" * 30},
        {"Upload-Length": "4", "Upload-Metadata": "a YQ==,a YQ=="},
        {"Upload-Length": "4", "Upload-Metadata": "a ??"},
        {"Upload-Length": "4", "Upload-Metadata": "x" * 5000},
    ],
)
def test_a_beginning_that_cannot_be_read(project, headers):
    problem(project.client.post("uploads", headers=TUS | headers), 400, "malformed_request")
    assert project.client.get("uploads").json()["items"] == []


def test_a_beginning_with_a_body_is_refused(project):
    response = project.client.post("uploads", headers=PIECE | {"Upload-Length": "4"}, content=b"abcd")
    assert "PATCH" in problem(response, 415, "unsupported_media_type")["hint"]


def test_one_that_is_too_large_is_refused_when_it_begins(project):
    headers = TUS | {"Upload-Length": str(MAX_UPLOAD_BYTES + 1)}
    assert str(MAX_UPLOAD_BYTES) in problem(project.client.post("uploads", headers=headers), 413, "too_large")["detail"]


def test_what_is_on_its_way_counts_against_the_quota(tmp_path):
    with serving(tmp_path, max_project_bytes=10_000) as server:
        project = server.project()
        content = pt2()
        upload = whole(project, content)
        problem(project.client.post("uploads", headers=TUS | {"Upload-Length": "10001"}), 413, "too_large")
        response = project.client.post("uploads", headers=TUS | {"Upload-Length": str(10_001 - len(content))})
        assert problem(response, 429, "quota_reached")["hint"]
        assert response.headers["retry-after"]
        begin(project, 10_000 - len(content))
        problem(project.upload("models", pt2()), 429, "quota_reached")
        # What it takes was counted when it began.
        assert project.client.post("models", json={"name": "m", "upload_id": upload}).status_code == 201
        assert project.client.get("usage").json()["stored_bytes"] == len(content)
        project.client.close()


def test_a_piece_at_another_offset_changes_nothing(project):
    upload = begin(project, 10)
    assert send(project, upload, 0, b"abcd").status_code == 204
    for offset in (0, 3, 5, 10):
        assert "4 bytes" in problem(send(project, upload, offset, b"x"), 409, "wrong_offset")["detail"]
    for offset in ("-1", "four", "4.0"):
        problem(send(project, upload, offset, b"x"), 400, "malformed_request")
    assert draft(project, upload).read_bytes() == b"abcd"


def test_a_piece_without_an_offset_or_of_another_media_type(project):
    upload = begin(project, 10)
    problem(project.client.patch(f"uploads/{upload}", content=b"x", headers=PIECE), 400, "malformed_request")
    response = send(project, upload, 0, b"x", **{"Content-Type": "application/octet-stream"})
    problem(response, 415, "unsupported_media_type")
    assert offset_of(project, upload) == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_a_piece_over_the_end_changes_nothing(project, chunked):
    upload = begin(project, 6)
    assert send(project, upload, 0, b"abcd").status_code == 204
    problem(send(project, upload, 4, iter([b"ef", b"g"]) if chunked else b"efg"), 413, "too_large")
    assert draft(project, upload).read_bytes() == b"abcd"
    assert send(project, upload, 4, iter([b"e", b"f"])).status_code == 204
    problem(send(project, upload, 6, b"g"), 413, "too_large")
    assert draft(project, upload).read_bytes() == b"abcdef"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_a_checksum_is_compared_before_a_piece_counts(project, algorithm):
    upload = begin(project, 8)
    assert send(project, upload, 0, b"abcd", **checksum(algorithm, b"abcd")).status_code == 204
    problem(send(project, upload, 4, b"efgh", **checksum(algorithm, b"efgx")), 460, "checksum_mismatch")
    assert offset_of(project, upload) == 4
    assert send(project, upload, 4, b"efgh", **checksum(algorithm, b"efgh")).status_code == 204
    assert draft(project, upload).read_bytes() == b"abcdefgh"


@pytest.mark.parametrize("header", ["md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha1", "sha1 ???", "sha1 YWJj", ""])
def test_a_checksum_that_is_none(project, header):
    upload = begin(project, 8)
    problem(send(project, upload, 0, b"abcd", **{"Upload-Checksum": header}), 400, "malformed_request")
    assert offset_of(project, upload) == 0


def test_an_upload_that_is_ended_is_gone_with_its_bytes(project):
    upload = begin(project, 10)
    assert send(project, upload, 0, b"abcd").status_code == 204
    response = project.client.delete(f"uploads/{upload}", headers=TUS)
    assert (response.status_code, response.headers["tus-resumable"]) == (204, "1.0.0")
    last = project.client.get("audit").json()["items"][0]
    assert (last["action"], last["object_id"]) == ("upload.deleted", upload)
    assert not draft(project, upload).exists()
    problem(send(project, upload, 4, b"efgh"), 404, "not_found")
    assert project.client.head(f"uploads/{upload}", headers=TUS).status_code == 404


def test_an_upload_that_has_expired_is_gone_and_cleared_away(project):
    parts = project.server.parts
    upload, other = (begin(project, 10) for _ in range(2))
    response = send(project, upload, 0, b"abcd")
    expires_at = parsedate_to_datetime(response.headers["upload-expires"])
    assert timedelta(hours=23) < expires_at - datetime.now(UTC) < timedelta(hours=25)
    with parts.sessions.begin() as session:
        session.get(UploadRow, upload).expires_at = datetime.now(UTC) - timedelta(seconds=1)
    problem(send(project, upload, 4, b"efgh"), 404, "not_found")
    assert [item["id"] for item in project.client.get("uploads").json()["items"]] == [other]
    clear_expired(parts.sessions, parts.readers, parts.uploads.drafts, datetime.now(UTC))
    until(lambda: not draft(project, upload).exists())  # the housekeeper may have been first
    assert offset_of(project, other) == 0


def test_bytes_that_belong_to_no_upload_are_cleared_away_once_they_are_old(project):
    parts, upload = project.server.parts, begin(project, 10)
    send(project, upload, 0, b"abcd")
    orphan = draft(project, "upl_00000000000000000000000000")
    orphan.write_bytes(b"left")
    clear_orphans(parts.readers, parts.uploads.drafts, datetime.now(UTC) - timedelta(hours=1))
    assert orphan.exists()
    clear_orphans(parts.readers, parts.uploads.drafts, datetime.now(UTC) + timedelta(hours=1))
    assert not orphan.exists()
    assert offset_of(project, upload) == 4


def test_another_projects_upload_is_not_there(project, foreign):
    upload = whole(foreign, pt2())
    for response in (
        project.client.get(f"uploads/{upload}"),
        send(project, upload, 0, b"x"),
        project.client.delete(f"uploads/{upload}", headers=TUS),
        project.client.post("models", json={"name": "m", "upload_id": upload}),
    ):
        problem(response, 404, "not_found")
    assert project.client.get("uploads").json()["items"] == []
    assert foreign.client.post("models", json={"name": "m", "upload_id": upload}).status_code == 201


def test_what_is_refused_as_a_model_may_still_be_a_data_set(project):
    content = npz()
    upload = whole(project, content)
    problem(project.client.post("models", json={"name": "d", "upload_id": upload}), 415, "unknown_format")
    body = {"name": "d", "upload_id": upload, "format": "safetensors"}
    problem(project.client.post("datasets", json=body), 415, "unknown_format")
    assert project.client.post("datasets", json={"name": "d", "upload_id": upload}).status_code == 201
    assert project.holds(content)


def test_bodies_that_name_an_upload_wrongly(project):
    upload = whole(project, pt2())
    for noun, pointer in (("models", "/artifact_id"), ("datasets", "/artifact_id")):
        body = {"name": "d", "upload_id": upload, "artifact_id": "art_1"}
        assert pointers(problem(project.client.post(noun, json=body), 422, "validation_failed")) == [pointer]
    problem(project.client.post("datasets", json={"upload_id": upload}), 422, "validation_failed")
    problem(project.client.post("datasets", json={"name": "d", "upload_id": 5}), 422, "validation_failed")
    for text in ("[" * 30_000, "{", "\x00"):
        headers = {"Content-Type": "application/json"}
        problem(project.client.post("models", content=text, headers=headers), 400, "malformed_request")


def test_a_content_that_is_there_already_is_kept_once(project):
    content = pt2()
    first = project.upload("models", content).json()
    upload = whole(project, content)
    second = project.client.post("models", json={"name": "m", "upload_id": upload}).json()
    assert second["sha256"] == first["sha256"]
    assert project.client.get("usage").json()["stored_bytes"] == len(content)
    assert project.client.delete(f"models/{first['id']}").status_code == 204
    assert project.client.get(f"models/{second['id']}/content").content == content


def test_a_method_may_stand_in_a_header(project):
    upload = begin(project, 4)
    headers = PIECE | {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0"}
    assert project.client.post(f"uploads/{upload}", content=b"abcd", headers=headers).status_code == 204
    headers = TUS | {"X-HTTP-Method-Override": "DELETE"}
    assert project.client.post(f"uploads/{upload}", headers=headers).status_code == 204
    problem(project.client.get(f"uploads/{upload}"), 404, "not_found")


def test_head_by_a_header_is_answered_without_a_body(project):
    upload = begin(project, 4)
    headers = TUS | {"X-HTTP-Method-Override": "HEAD"}
    # Twice on one connection: an answer shorter than announced would break it.
    for _ in range(2):
        response = project.client.post(f"uploads/{upload}", headers=headers)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == "0"
        assert (response.headers["upload-offset"], response.headers["upload-length"]) == ("0", "4")
    missing = project.client.post(f"uploads/{new_id(Prefix.UPLOAD)}", headers=headers)
    assert (missing.status_code, missing.content) == (404, b"")
    assert missing.headers["tus-resumable"] == "1.0.0"


def test_a_beginning_sent_again_under_its_key_begins_once(project):
    headers = TUS | {"Upload-Length": "10", "Idempotency-Key": "once"}
    first, again = (project.client.post("uploads", headers=headers) for _ in range(2))
    assert again.headers["idempotency-replayed"] == "true"
    for name in ("location", "upload-expires", "tus-resumable"):
        assert again.headers[name] == first.headers[name]
    assert len(project.client.get("uploads").json()["items"]) == 1


def test_browsers_may_read_and_send_the_headers(tmp_path):
    with serving(tmp_path, cors_origins=["https://lab.example"]) as server:
        project = server.project()
        origin = {"Origin": "https://lab.example"}
        asked = {
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "tus-resumable,upload-offset",
        }
        response = project.client.options("uploads/upl_1", headers=origin | asked)
        assert response.status_code == 200
        assert "PATCH" in response.headers["access-control-allow-methods"]
        response = project.client.post("uploads", headers=TUS | origin | {"Upload-Length": "4"})
        exposed = {name.strip() for name in response.headers["access-control-expose-headers"].split(",")}
        assert {
            "Location",
            "Upload-Offset",
            "Upload-Length",
            "Upload-Expires",
            "Tus-Resumable",
            "Tus-Max-Size",
        } <= exposed
        project.client.close()
