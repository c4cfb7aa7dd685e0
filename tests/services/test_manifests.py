import base64
import hashlib
import stat
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from app import cli
from app.domain.errors import CorruptFile, NotFound, Unavailable
from app.domain.manifest import MANIFEST_FILE, SIGNATURE_FILE, FileDigest, Manifest, Source
from app.services import manifests, signing

CONTENTS = {"model.onnx": b"weights", "report.json": b"{}"}


@pytest.fixture
def key(tmp_path):
    return signing.load_key(tmp_path / "keys" / "signing.key")


@pytest.fixture
def folder(tmp_path, key):
    """Give a folder as somebody has downloaded it."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    manifest = Manifest(
        job_id="job_1",
        model=Source(id="mdl_1", sha256="aa"),
        dataset=Source(id="dat_1", sha256="bb"),
        artifacts=tuple(
            FileDigest(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in CONTENTS.items()
        ),
        service="1",
        public_key=signing.public_text(key),
    )
    for name, content in zip((MANIFEST_FILE, SIGNATURE_FILE), manifests.sign(manifest, key), strict=True):
        (folder / name).write_bytes(content)
    return folder


def verify(folder, *arguments):
    return cli.main(["verify", str(folder), *arguments])


def test_an_untouched_folder_is_what_the_job_left(folder, key, capsys):
    assert verify(folder, "--key", signing.public_text(key)) == 0
    assert capsys.readouterr().out == "2 artifacts are what job_1 left.\n"
    assert verify(folder) == 0
    assert hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.onnx", b"weightz", "model.onnx is not what the job left"),
        ("report.json", None, "report.json is missing"),
        ("extra.bin", b"", "extra.bin is none of the job's artifacts"),
    ],
)
def test_each_file_that_differs_is_named(folder, capsys, name, content, told):
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    assert verify(folder) == 1
    assert told in capsys.readouterr().err


def test_a_manifest_that_was_changed_is_not_signed(folder, capsys):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text.replace("job_1", "job_2"))
    assert verify(folder) == 1
    assert "not signed" in capsys.readouterr().err


def test_another_services_signature_does_not_pass(folder, tmp_path):
    other = signing.public_text(signing.load_key(tmp_path / "other.key"))
    with pytest.raises(CorruptFile, match="not signed"):
        manifests.read(folder, other)
    for no_key in ("", "no base64 !", base64.b64encode(b"short").decode()):
        with pytest.raises(CorruptFile):
            manifests.read(folder, no_key or "AA==")


@pytest.mark.parametrize("name", [MANIFEST_FILE, SIGNATURE_FILE])
def test_what_is_missing_or_no_manifest_is_told(folder, name):
    (folder / name).write_bytes(b"\xff!")
    with pytest.raises(CorruptFile, match="cannot be read"):
        manifests.read(folder, None)
    (folder / name).unlink()
    with pytest.raises(NotFound, match=name.replace(".", r"\.")):
        manifests.read(folder, None)


def test_a_file_in_place_of_the_folder_is_told_without_a_traceback(folder, capsys):
    assert verify(folder / "model.onnx") == 1
    told = capsys.readouterr().err
    assert f"model.onnx/{MANIFEST_FILE} cannot be read: Not a directory. Give the folder of" in told


def test_the_key_is_made_once_and_for_its_user_alone(tmp_path):
    path, found = tmp_path / "new" / "signing.key", []
    threads = [threading.Thread(target=lambda: found.append(signing.load_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({signing.public_text(key) for key in found}) == 1
    assert len(found) == len(threads)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["signing.key"]


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_told(tmp_path, content):
    (tmp_path / "signing.key").write_bytes(content)
    with pytest.raises(Unavailable, match=r"signing\.key"):
        signing.load_key(tmp_path / "signing.key")


def test_a_key_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"no folder")
    with pytest.raises(Unavailable, match=r"signing\.key cannot be read"):
        signing.load_key(tmp_path / "file" / "keys" / "signing.key")


def test_a_key_behind_a_password_is_told(tmp_path):
    secret = BestAvailableEncryption(b"password")
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    (tmp_path / "signing.key").write_bytes(pem)
    with pytest.raises(Unavailable, match=r"signing\.key cannot be read"):
        signing.load_key(tmp_path / "signing.key")
