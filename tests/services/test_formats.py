"""Formats are told from bytes; what was cut, damaged or hidden is named for what it is."""

import gzip
import io
import json
import random
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.errors import CorruptFile, TruncatedUpload, UnknownFormat, UnsafeFile, WinnowError
from app.services.formats import tell
from tests.factories import archive, npz, onnx, pt2, safetensors, tar


def parquet():
    stream = io.BytesIO()
    pq.write_table(pa.table({"x": [[1.0, 2.0]] * 3}), stream)
    return stream.getvalue()


WHOLE = {
    "pt2": pt2(),
    "onnx": onnx(),
    "huggingface": archive("encoder/config.json", "encoder/model.safetensors", "encoder/README.md"),
    "npz": npz(),
    "safetensors": safetensors(),
    "zip": archive("train/a/0.png", "train/b/1.JPG"),
    "tar": tar("train/a/0.png", "train/b/1.png"),
    "parquet": parquet(),
}


def told(content):
    return tell(io.BytesIO(content), len(content))


@pytest.mark.parametrize("format_", WHOLE)
def test_a_whole_file_is_told_by_its_content(format_):
    assert told(WHOLE[format_]) == format_


@pytest.mark.parametrize("format_", WHOLE)
def test_a_file_cut_anywhere_was_cut(format_):
    content = WHOLE[format_]
    # Of fewer bytes nothing can be told yet: a tar names itself there.
    for size in range(263, len(content)):
        with pytest.raises(TruncatedUpload):
            told(content[:size])


@pytest.mark.parametrize("names", [("config.json", "model.safetensors"), ("./b/1.safetensors", "./b/config.json")])
def test_a_folder_of_a_checkpoint_is_told_at_the_top_or_in_one_folder_of_either_archive(names):
    assert told(tar(*names)) == told(archive(*names)) == "huggingface"


@pytest.mark.parametrize("names", [("config.json", "a/model.safetensors"), ("a/b/config.json", "a/b/m.safetensors")])
def test_weights_elsewhere_than_their_configuration_are_no_checkpoint(names):
    assert told(tar(*names)) == "tar"
    with pytest.raises(UnknownFormat):
        told(archive(*names))


def test_pickled_weights_are_refused_by_name():
    for make in (tar, archive):
        with pytest.raises(UnknownFormat, match=r"pytorch_model\.bin") as caught:
            told(make("net/config.json", "net/pytorch_model.bin"))
        assert "safe_serialization=True" in caught.value.hint
    assert told(archive("config.json", "pytorch_model.bin", "model.safetensors")) == "huggingface"


def test_a_model_with_fields_of_no_model_or_far_too_many_is_damaged():
    for more in (b"\x4a\x00", b"\xf8\x07\x01", b"\x72\x00" * 2000):
        with pytest.raises(CorruptFile):
            told(WHOLE["onnx"] + more)


def test_a_tensor_file_whose_header_is_as_long_as_a_model_starts_is_one_of_tensors():
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"train.x": entry}).ljust(0x0908).encode()
    assert told(len(header).to_bytes(8, "little") + header + bytes(4)) == "safetensors"


def test_an_archive_with_a_comment_is_whole_with_all_of_it():
    stream = io.BytesIO(WHOLE["npz"])
    with zipfile.ZipFile(stream, "a") as file:
        file.comment = b"a comment" * 20
    assert told(stream.getvalue()) == "npz"
    with pytest.raises(TruncatedUpload):
        told(stream.getvalue()[:-1])


def test_bytes_that_follow_an_archive_or_stand_before_it_are_refused():
    with pytest.raises(TruncatedUpload):
        told(WHOLE["npz"] + b"more")
    with pytest.raises(TruncatedUpload):
        told(archive("net/models/model.json") + WHOLE["npz"])


def test_a_tensor_file_with_more_than_its_header_tells_of_is_damaged():
    with pytest.raises(CorruptFile, match="4 bytes more"):
        told(WHOLE["safetensors"] + b"more")


def test_an_archive_with_a_huge_directory_is_not_read():
    names = [f"{number}{'n' * 60_000}.npy" for number in range(40)]
    with pytest.raises(UnsafeFile, match="directory"):
        told(archive(*names))


def many_images(count, length):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for number in range(count):
            file.writestr(f"train/a/{number}{'n' * length}.png", b"")
    return stream.getvalue()


def test_a_folder_of_very_many_images_is_told_by_the_first_of_them():
    content = many_images(300, 9000)
    assert told(content) == "zip"
    for cut in (content[:-1], content[: len(content) // 2]):
        with pytest.raises((TruncatedUpload, UnsafeFile)):
            told(cut)


def test_what_is_compressed_as_a_whole_or_encrypted_says_what_to_do():
    with pytest.raises(UnknownFormat) as compressed:
        told(gzip.compress(WHOLE["tar"]))
    assert ".zip" in compressed.value.hint
    with pytest.raises(UnknownFormat) as encrypted:
        told(WHOLE["parquet"][:-4] + b"PARE")
    assert encrypted.value.hint


@pytest.mark.parametrize("header", [b"{}x", b"[1]", b'{"a": []}', b'{"a": {"data_offsets": "x"}}', b"{" * 9999])
def test_a_tensor_file_without_a_header_is_none(header):
    with pytest.raises(UnknownFormat):
        told(len(header).to_bytes(8, "little") + header + bytes(16))


@pytest.mark.parametrize("format_", WHOLE)
def test_a_damaged_file_ends_in_an_answer(format_):
    """Any other error would be a 500."""
    answers = set()
    for seed in range(3000):
        chance = random.Random(seed)
        content = bytearray(WHOLE[format_])
        for _ in range(chance.choice([1, 1, 4])):
            content[chance.randrange(len(content))] = chance.choice([0, 255, chance.randrange(256)])
        try:
            answers.add(told(bytes(content)))
        except WinnowError as error:
            answers.add(error.code)
    assert len(answers) > 1


def test_names_in_a_tensor_file_may_be_of_any_language():
    header = json.dumps({"train.ü": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, ensure_ascii=False).encode()
    assert told(len(header).to_bytes(8, "little") + header + b"\x00") == "safetensors"


def test_a_header_whose_length_begins_as_a_pickle_does_is_told_from_one():
    header = b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'.ljust(0x280)
    assert told(len(header).to_bytes(8, "little") + header + b"\x00") == "safetensors"
    with pytest.raises(UnknownFormat, match="is a pickle"):
        told(b"\x80\x02}q\x00." + bytes(600))
