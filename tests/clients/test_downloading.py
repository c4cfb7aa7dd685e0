"""Files arrive whole or not at all."""

import hashlib
import secrets

import pytest
import winnow


@pytest.fixture
def artifact(stubborn, flaky):
    flaky.content = secrets.token_bytes(100_000)
    body = {"id": "art_1", "job_id": "job_1", "name": "model.onnx", "kind": "model", "format": "onnx"}
    body |= {"size_bytes": len(flaky.content), "sha256": hashlib.sha256(flaky.content).hexdigest()}
    return winnow.Artifact.of(body | {"created_at": "2026-01-01T00:00:00Z"}, _transport=stubborn._transport)


def ranges(flaky):
    return [headers.get("Range") for _, _, headers in flaky.requests]


def test_a_cut_download_goes_on_where_it_was(artifact, flaky, tmp_path):
    flaky.cuts = [30_000, 20_000]
    told = []
    path = artifact.download(tmp_path / "new" / "small.onnx", progress=lambda *it: told.append(it))
    assert path.read_bytes() == flaky.content
    assert ranges(flaky) == [None, "bytes=30000-", "bytes=50000-"]
    assert flaky.requests[1][2]["If-Range"] == f'"{artifact.sha256}"'
    assert told[-1] == (100_000, 100_000)
    assert [it.name for it in path.parent.iterdir()] == ["small.onnx"]


def test_it_is_cut_as_often_as_it_gets_on_and_later_processes_go_on(artifact, flaky, tmp_path):
    flaky.cuts = [1000] * 10 + [0] * 3
    with pytest.raises(winnow.ConnectionFailed):
        artifact.download(tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()
    flaky.requests.clear()
    assert artifact.download(tmp_path / "small.onnx").read_bytes() == flaky.content
    assert ranges(flaky) == ["bytes=10000-"]
    flaky.requests.clear()
    artifact.download(tmp_path / "small.onnx")
    assert flaky.requests == []


@pytest.mark.parametrize("stated", [None, b"\0" * 32])
def test_damage_is_told_and_nothing_kept(artifact, flaky, tmp_path, stated):
    flaky.digest = stated
    if stated is None:
        flaky.content = flaky.content[:-1] + bytes([flaky.content[-1] ^ 1])
    with pytest.raises(winnow.DamagedTransfer, match=r"small\.onnx arrived"):
        artifact.download(tmp_path / "small.onnx")
    assert list(tmp_path.glob("*.onnx*")) == []
    assert list(tmp_path.glob(".*.part")) == []


def test_no_name_leads_out_of_the_folder(client, project, tmp_path):
    job_id = project.queued()
    project.claim(job_id)
    project.add_artifact(job_id, "../evil.onnx", b"content")
    project.finish(job_id)
    result = client.get_job(job_id).download_results(tmp_path / "out")
    assert result.files == (tmp_path / "out" / "evil.onnx",)
    assert result.status.success
