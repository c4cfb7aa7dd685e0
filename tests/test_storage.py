import asyncio
import hashlib
import io
import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.errors import InternalError, NotFound, TooLarge, Unavailable
from app.storage import FileChanged, Storage, content_key

CONTENT = bytes(range(256)) * 40_000  # above one part of an upload
SIZE = len(CONTENT)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
KEY = content_key("prj_1", DIGEST)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "objects"


@pytest.fixture
def storage(folder):
    return Storage(folder.as_uri())


async def stream(content=CONTENT, *, breaks=False, piece=100_000):
    for start in range(0, len(content), piece):
        yield content[start : start + piece]
    if breaks:
        raise ConnectionError


def receive(storage, body, limit=SIZE):
    return asyncio.run(storage.receive(body, limit=limit))


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def read(storage, *span):
    async def collect():
        return b"".join([chunk async for chunk in await storage.read(KEY, *span)])

    return asyncio.run(collect())


@pytest.fixture
def kept(storage):
    storage.promote(receive(storage, stream()), "prj_1")


def test_what_is_received_is_hashed_and_waits_for_a_home(storage, folder):
    incoming = receive(storage, stream())
    assert (incoming.sha256, incoming.size_bytes) == (DIGEST, SIZE)
    assert not storage.exists(KEY)
    for _ in range(2):
        storage.promote(incoming, "prj_1")
        assert [path.relative_to(folder).as_posix() for path in files(folder)] == [KEY]
        incoming = receive(storage, stream())


@pytest.mark.parametrize("size", [0, 1, SIZE])
def test_nothing_stays_of_a_stream_that_breaks(storage, folder, size):
    with pytest.raises(ConnectionError):
        receive(storage, stream(CONTENT[:size], breaks=True))
    assert files(folder) == []


def test_nothing_stays_of_a_stream_over_the_limit(storage, folder):
    with pytest.raises(TooLarge):
        receive(storage, stream(), limit=SIZE - 1)
    assert files(folder) == []


def test_nothing_stays_of_a_stream_that_is_cancelled(storage, folder):
    async def hanging():
        yield CONTENT
        await asyncio.sleep(60)

    async def cancelled():
        task = asyncio.create_task(storage.receive(hanging(), limit=SIZE))
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert files(folder) == []


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("span", [(0, SIZE), (5, 9), (SIZE - 1, SIZE), (7, 7)])
def test_any_part_can_be_read(storage, span):
    assert read(storage, *span) == CONTENT[slice(*span)]


@pytest.mark.usefixtures("kept")
def test_an_object_is_a_file_to_readers_of_archives(storage):
    with storage.open(KEY) as file:
        file.seek(-16, os.SEEK_END)
        assert file.read() == CONTENT[-16:]
        file.seek(1000)
        assert file.read(10) == CONTENT[1000:1010]
        assert file.tell() == 1010


def test_what_is_gone_is_not_found(storage, tmp_path):
    for ask in (
        lambda: read(storage, 0, 1),
        lambda: storage.open(KEY),
        lambda: storage.read_bytes(KEY),
        lambda: storage.fetch_to(KEY, tmp_path / "out"),
    ):
        with pytest.raises(NotFound, match=DIGEST):
            ask()
    storage.delete(KEY)  # deleting twice is fine


@pytest.mark.usefixtures("kept")
def test_a_worker_never_gets_damaged_content(storage, folder, tmp_path):
    storage.fetch_to(KEY, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    with (folder / KEY).open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(InternalError, match="damaged"):
        storage.fetch_to(KEY, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_is_stored_once(storage, folder, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(CONTENT)
    for _ in range(2):
        with path.open("rb") as file:
            assert storage.store_file(file, "prj_1") == (DIGEST, SIZE)
    assert [path.relative_to(folder).as_posix() for path in files(folder)] == [KEY]


class Restless(io.FileIO):
    """A file that somebody writes to whenever it has been read once."""

    def __init__(self, path, harm):
        super().__init__(path, "r+b")
        self.harm, self.read_once = harm, False

    def seek(self, offset, whence=io.SEEK_SET):
        if self.read_once and offset == 0:
            self.harm(self)
        self.read_once = True
        return super().seek(offset, whence)


def flip(file):
    os.pwrite(file.fileno(), b"\xff", SIZE // 2)


@pytest.mark.parametrize("harm", [flip, lambda file: file.truncate(SIZE - 1), lambda file: file.truncate(SIZE + 1)])
def test_nothing_stays_of_a_file_that_changes_while_it_is_stored(storage, folder, tmp_path, harm):
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    with Restless(tmp_path / "model.onnx", harm) as file, pytest.raises(FileChanged):
        storage.store_file(file, "prj_1")
    assert files(folder) == []


@pytest.mark.usefixtures("kept")
def test_the_sweep_takes_old_uploads_and_nothing_else(storage, folder):
    old, new = (receive(storage, stream(b"cut")) for _ in range(2))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    os.utime(folder / old.key, (yesterday.timestamp() - 60,) * 2)
    os.utime(folder / KEY, (0, 0))
    assert storage.sweep(yesterday) == (1, 3)
    assert storage.exists(KEY)
    assert storage.exists(new.key)
    assert not storage.exists(old.key)


def test_a_storage_that_cannot_be_written_says_so(storage, folder):
    storage.check()
    assert files(folder) == []
    shutil.rmtree(folder)
    folder.write_text("no folder")
    with pytest.raises(Unavailable):
        storage.check()
