import secrets

import zstandard

from workers.compression.packing import SUFFIX, pack, packed_size


def test_a_packed_copy_unpacks_to_the_file_and_has_the_same_bytes_each_time(tmp_path):
    content = secrets.token_bytes(1000) + bytes(100_000) + secrets.token_bytes(1000)
    (tmp_path / "file").write_bytes(content)
    copies = [tmp_path / "one", tmp_path / "two"]
    assert all(pack(tmp_path / "file", copy) for copy in copies)
    assert copies[0].read_bytes() == copies[1].read_bytes()
    assert zstandard.ZstdDecompressor().decompress(copies[0].read_bytes()) == content
    assert zstandard.get_frame_parameters(copies[0].read_bytes()).has_checksum
    assert packed_size(tmp_path / "file", tmp_path) == copies[0].stat().st_size < 4000


def test_a_copy_that_is_no_smaller_is_not_kept(tmp_path):
    (tmp_path / "file").write_bytes(secrets.token_bytes(5000))
    assert not pack(tmp_path / "file", tmp_path / f"file{SUFFIX}")
    assert packed_size(tmp_path / "file", tmp_path) == 5000
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
