"""Uploads that go on where they were cut, and in one request where a service takes no others."""

import os
import secrets
import zipfile
from pathlib import Path

import pytest
import winnow
from winnow import uploading

from tests.factories import npz, pt2, safetensors


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "big.pt2"
    path.write_bytes(secrets.token_bytes(5 * 1024))
    return path


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(uploading, "CHUNK_BYTES", 2048)


@pytest.mark.usefixtures("small_chunks")
def test_a_large_file_goes_in_checked_chunks_and_tells_how_far(patient, tus, file):
    told = []
    model = patient.upload_model(file, progress=lambda sent, size: told.append((sent, size)))
    assert bytes(tus.uploads["upl_0"][1]) == file.read_bytes()
    assert model.name == "big"
    assert told == [(0, 5120), (2048, 5120), (4096, 5120), (5120, 5120)]
    assert [method for method, *_ in tus.requests] == ["POST", "PATCH", "PATCH", "PATCH", "POST"]


@pytest.mark.usefixtures("small_chunks")
def test_a_cut_upload_goes_on_at_the_last_byte_that_arrived(patient, tus, file):
    tus.cuts = [1000, 0, 700]
    patient.upload_model(file)
    assert bytes(tus.uploads["upl_0"][1]) == file.read_bytes()
    offsets = [int(headers["Upload-Offset"]) for method, _, headers in tus.requests if method == "PATCH"]
    assert offsets[:4] == [0, 1000, 1000, 1700]


@pytest.mark.usefixtures("small_chunks")
def test_a_later_process_takes_up_what_an_earlier_one_left(tus, file):
    tus.cuts = [2048, 0, 0]
    with winnow.Client(tus.url, "key", retries=1) as first:
        first._transport._backoff = 0.001
        with pytest.raises(winnow.ConnectionFailed):
            first.upload_model(file)
    tus.requests.clear()
    with winnow.Client(tus.url, "key") as second:
        second.upload_model(file)
    assert len(tus.uploads) == 1
    assert tus.requests[0][0] == "HEAD"
    assert bytes(tus.uploads["upl_0"][1]) == file.read_bytes()
    assert int(tus.requests[1][2]["Upload-Offset"]) == 2048


@pytest.mark.usefixtures("small_chunks")
def test_where_nothing_can_be_remembered_the_file_is_sent_all_the_same(patient, tus, file, home, monkeypatch):
    (home / "file").write_bytes(b"no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    patient.upload_model(file)
    assert bytes(tus.uploads["upl_0"][1]) == file.read_bytes()


@pytest.mark.parametrize(
    ("file_name", "name"),
    [(b"bad\xff.pt2", "bad\ufffd"), (b"two\nlines.pt2", "two\ufffdlines"), (b"n" * 240 + b".pt2", "n" * 200)],
    ids=["no text", "no sign", "long"],
)
@pytest.mark.parametrize("resumable", [True, False])
def test_a_file_may_be_named_as_no_model_is(client, tmp_path, file_name, name, resumable):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + file_name))
    path.write_bytes(pt2())
    assert client.upload_model(path, resumable=resumable).name == name


@pytest.mark.usefixtures("small_chunks")
def test_an_upload_that_the_service_forgot_is_begun_anew(tus, file):
    tus.cuts = [2048, 0]
    with winnow.Client(tus.url, "key", retries=0) as first, pytest.raises(winnow.ConnectionFailed):
        first.upload_model(file)
    tus.uploads.clear()
    tus.cuts.clear()
    with winnow.Client(tus.url, "key") as second:
        second.upload_model(file)
    assert bytes(tus.uploads["upl_0"][1]) == file.read_bytes()


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_that_arrives_damaged_is_sent_again(patient, tus, file):
    tus.damage = 2
    patient.upload_model(file)
    assert bytes(tus.uploads["upl_0"][1]) == file.read_bytes()


@pytest.mark.usefixtures("small_chunks")
def test_what_was_stored_otherwise_than_sent_is_told(patient, tus, file):
    tus.stored_sha256 = "0" * 64
    with pytest.raises(winnow.DamagedTransfer, match=r"big\.pt2 was stored"):
        patient.upload_model(file)


@pytest.mark.usefixtures("small_chunks")
def test_a_service_without_resumable_uploads_gets_the_file_in_one_request(patient, tus, file):
    tus.offered = False
    model = patient.upload_model(file)
    assert (model.size_bytes, len(tus.made)) == (5120, 1)
    assert [method for method, *_ in tus.requests] == ["POST", "POST"]


def test_the_real_service_keeps_what_was_sent(client, project, tmp_path, monkeypatch):
    (tmp_path / "digits.npz").write_bytes(npz())
    told = []
    dataset = client.upload_dataset(tmp_path / "digits.npz", "rows", progress=lambda *it: told.append(it))
    assert (dataset.name, dataset.state) == ("rows", "validating")
    assert told[-1] == (dataset.size_bytes, dataset.size_bytes)
    path = dataset.download(tmp_path / "again")
    assert path.name == "again.npz"
    assert path.read_bytes() == (tmp_path / "digits.npz").read_bytes()
    content = pt2()
    (tmp_path / "net.pt2").write_bytes(content)
    assert client.upload_model(str(tmp_path / "net.pt2"), resumable=False).size_bytes == len(content)
    assert [it.id for it in client.get_datasets()] == [dataset.dataset_id]


def test_arrays_are_uploaded_by_their_names(client):
    rows = {"train.x": [[1.0], [2.0]], "train.y": [0, 1]}
    dataset = client.upload_dataset(rows, "arrays")
    assert (dataset.name, dataset.format) == ("arrays", "npz")


def test_a_folder_goes_as_one_file_of_what_the_service_reads(client, tmp_path):
    folder = tmp_path / "minilm"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "1_Pooling/config.json", "vocab.txt", "pytorch_model.bin"):
        (folder / name).write_bytes(name.encode())
    (folder / "model.safetensors").write_bytes(safetensors())
    model = client.upload_model(folder)
    assert (model.name, model.format) == ("minilm", "huggingface")
    (folder / "config.json").touch()
    assert client.upload_model(str(folder), "again").sha256 == model.sha256
    with zipfile.ZipFile(model.download(tmp_path / "sent.zip")) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")
        }
    (folder / "model.safetensors").unlink()
    with pytest.raises(winnow.Error, match=r"holds no config\.json with \*\.safetensors"):
        client.upload_model(folder)


def test_a_file_of_another_kind_is_refused_with_what_to_do(client, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(winnow.UserError) as caught:
        client.upload_model(tmp_path / "net.pt2")
    assert (caught.value.status, caught.value.code) == (415, "unknown_format")
    assert caught.value.request_id.startswith("req_")


def test_a_later_process_goes_on_with_what_the_service_has(project, tmp_path, monkeypatch):
    path, content = tmp_path / "rows.npz", npz()
    path.write_bytes(content)
    monkeypatch.setattr(uploading, "CHUNK_BYTES", len(content) // 5)

    def stop(sent, _):
        if sent >= len(content) // 2:
            raise InterruptedError

    with winnow.Client(project.server.url, project.key) as first, pytest.raises(InterruptedError):
        first.upload_dataset(path, progress=stop)
    (begun,) = project.client.get("uploads").json()["items"]
    assert len(content) // 2 <= begun["offset_bytes"] < len(content)
    told = []
    with winnow.Client(project.server.url, project.key) as second:
        dataset = second.upload_dataset(path, progress=lambda sent, _: told.append(sent))
    assert told[0] == begun["offset_bytes"]
    assert project.client.get("uploads").json()["items"] == []
    assert project.holds(content)
    assert project.client.get(f"datasets/{dataset.id}").json()["size_bytes"] == len(content)
