import base64
import hashlib
import secrets

import pytest

from tests.serving import problem

CONTENT = secrets.token_bytes(3 * 1024**2 + 17)
SIZE = len(CONTENT)


@pytest.fixture(scope="module")
def download(server):
    project = server.project()
    job = project.queued()
    path = f"artifacts/{project.add_artifact(job, 'model.onnx', CONTENT)}/content"
    yield lambda **headers: project.client.get(
        path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    project.client.close()


def test_the_whole_comes_with_its_tag_and_digest(download):
    response = download()
    assert response.status_code == 200
    assert response.content == CONTENT
    digest = hashlib.sha256(CONTENT)
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert response.headers["etag"] == f'"{digest.hexdigest()}"'
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["content-type"] == "application/octet-stream"


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=10-99": (10, 100),
    f"bytes={SIZE - 1}-": (SIZE - 1, SIZE),
    "bytes=-17": (SIZE - 17, SIZE),
    f"bytes=5-{SIZE * 2}": (5, SIZE),
    f"bytes=-{SIZE * 2}": (0, SIZE),
    "Bytes=1-2": (1, 3),
}


@pytest.mark.parametrize("header", RANGES)
def test_a_range(download, header):
    start, stop = RANGES[header]
    response = download(Range=header)
    assert response.status_code == 206
    assert response.content == CONTENT[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["content-length"] == str(stop - start)
    assert "repr-digest" in response.headers


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE * 9}-{SIZE * 10}"])
def test_a_range_outside(download, header):
    response = download(Range=header)
    problem(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("header", ["bytes=9-3", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=a-b", "bytes=٣-٤"])
def test_a_range_that_is_none_gives_the_whole(download, header):
    assert download(Range=header.encode()).status_code == 200


def test_a_download_is_taken_up_again_only_of_the_same_content(download):
    tag = download(Range="bytes=0-0").headers["etag"]
    assert download(Range="bytes=1-9", If_Range=tag).status_code == 206
    assert download(Range="bytes=1-9", If_Range='"other"').content == CONTENT


def test_a_content_that_is_known_is_not_sent_again(download):
    tag = download(Range="bytes=0-0").headers["etag"]
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        response = download(If_None_Match=header)
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == tag
    assert download(If_None_Match='"other"').status_code == 200


def test_a_packed_copy_is_sent_as_what_it_is(project):
    artifact = project.add_artifact(project.queued(), "model.onnx.zst", b"packed")
    response = project.client.get(f"artifacts/{artifact}/content")
    assert response.headers["content-type"] == "application/zstd"
    assert "content-encoding" not in response.headers
    assert 'filename="model.onnx.zst"' in response.headers["content-disposition"]


def test_an_empty_content(project):
    artifact = project.add_artifact(project.queued(), "empty.log", b"", kind="log")
    assert project.client.get(f"artifacts/{artifact}/content").content == b""
    response = project.client.get(f"artifacts/{artifact}/content", headers={"Range": "bytes=0-"})
    problem(response, 416, "range_not_satisfiable")
