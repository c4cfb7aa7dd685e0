"""Archives of Hugging Face folders: what admits them, and what each crafted one is refused for."""

import io
import json
import struct
import tarfile
import zipfile

import pytest

from app.domain.errors import CorruptFile, NonFiniteWeights, UnsafeFile, UnsupportedNetwork
from workers.compression.admission import admit

CONFIG = {"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 2, "hidden_size": 4}
INDEX = "model.safetensors.index.json"
NAN = struct.pack("<f", float("nan"))


def tensors(**values):
    """Write float tensors of safetensors by their raw bytes."""
    header, data = {}, b""
    for name, raw in values.items():
        header[name] = {"dtype": "F32", "shape": [len(raw) // 4], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    # As safetensors itself pads, so that the data is aligned.
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


WEIGHTS = tensors(a=bytes(64), b=bytes(16))


def config(**fields):
    return json.dumps(CONFIG | fields).encode()


def write(path, members):
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def folder(**replaced):
    return {"config.json": config(), "model.safetensors": WEIGHTS} | replaced


SHARDS = {"model-1.safetensors": tensors(a=bytes(64)), "model-2.safetensors": tensors(b=bytes(16))}
PLACES = {"a": "model-1.safetensors", "b": "model-2.safetensors"}


def sharded(**places):
    index = json.dumps({"metadata": {"total_size": 80}, "weight_map": PLACES | places}).encode()
    return {"config.json": config(), INDEX: index, **SHARDS}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_folders_are_admitted_with_whatever_else_they_hold(suffix, tmp_path):
    extra = {"tokenizer.json": b"{}", "modeling_mine.py": b"raise SystemExit", "1_Pooling/config.json": b"{}"}
    admit(write(tmp_path / f"a{suffix}", folder() | extra), "huggingface")
    admit(write(tmp_path / f"b{suffix}", {f"deep/{name}": it for name, it in folder().items()}), "huggingface")
    admit(write(tmp_path / f"c{suffix}", sharded()), "huggingface")
    nested = {f"2_Dense/{name}": it for name, it in folder().items()}
    admit(write(tmp_path / f"d{suffix}", folder() | nested), "huggingface")


def test_a_header_whose_length_starts_like_a_pickle_is_read(tmp_path):
    weights = WEIGHTS
    for spaces in range(0, 256, 8):
        length = int.from_bytes(WEIGHTS[:8], "little") + spaces
        if length % 256 == 0x80:
            weights = length.to_bytes(8, "little") + WEIGHTS[8 : 8 + length - spaces] + b" " * spaces + bytes(80)
    assert weights[0] == 0x80
    admit(write(tmp_path / "a.zip", folder(**{"model.safetensors": weights})), "huggingface")


CRAFTED = {
    "pickle": (folder(**{"pytorch_model.bin": b"\x80\x02}."}), UnsafeFile, "'pytorch_model.bin', a pickle"),
    "pickle beside": (folder(**{"deep/training_args.PT": b""}), UnsafeFile, "'deep/training_args.PT', a pickle"),
    "adapter": (folder(**{"adapter_config.json": b"{}"}), UnsafeFile, "an adapter"),
    "no weights": ({"config.json": config(), "x/a.safetensors": WEIGHTS}, UnsafeFile, "No folder"),
    "other weights": ({"config.json": config(), "other.safetensors": WEIGHTS}, UnsafeFile, "holds neither"),
    "two networks": (
        {f"{place}/{name}": it for place in "ab" for name, it in folder().items()}, UnsafeFile, "several networks",
    ),
    "no tensors": (folder(**{"model.safetensors": tensors()}), UnsafeFile, "0 tensors"),
    "weights are a pickle": (
        folder(**{"model.safetensors": b"\x80\x04\x95" + bytes(range(200))}), UnsafeFile,
        "model.safetensors: The file is a pickle",
    ),
    "weights cut": (
        folder(**{"model.safetensors": WEIGHTS[:-4]}), CorruptFile, "model.safetensors: The header describes",
    ),
    "nan": (folder(**{"model.safetensors": tensors(a=bytes(8), b=NAN)}), NonFiniteWeights, "'b' holds nan"),
    "index elsewhere": (sharded(b="../model-2.safetensors"), UnsafeFile, "names '../model-2.safetensors'"),
    "index of nothing": (sharded(b="model-3.safetensors"), UnsafeFile, "names 'model-3.safetensors'"),
    "index of another": (sharded(c="model-1.safetensors"), CorruptFile, "tells of other tensors"),
    "index without map": (sharded() | {INDEX: b"{}"}, UnsafeFile, "no weight_map"),
    "config no object": (folder(**{"config.json": b"[]"}), CorruptFile, "config.json is no object"),
    "config twice": (folder(**{"config.json": b'{"a": 1, "a": 2}'}), UnsafeFile, "more than once"),
    "config not finite": (folder(**{"config.json": b'{"a": NaN}'}), UnsafeFile, "holds NaN"),
    "config deep": (folder(**{"config.json": config(a=json.loads("[" * 40 + "]" * 40))}), UnsafeFile, "too deeply"),
    "config large": (folder(**{"config.json": config(a=[*range(700_000)])}), UnsafeFile, "at most 4194304 are read"),
    "no kind": (folder(**{"config.json": config(model_type=None)}), UnsupportedNetwork, "names no model_type"),
    "two classes": (folder(**{"config.json": config(architectures=["A", "B"])}), UnsupportedNetwork, "one class"),
    "own code": (
        folder(**{"config.json": config(auto_map={"AutoModel": "modeling.Mine"})}), UnsupportedNetwork, "auto_map",
    ),
    "own code deeper": (
        folder(**{"config.json": config(text_config={"trust_remote_code": True})}), UnsupportedNetwork, "trust_remote",
    ),
    "quantized": (
        folder(**{"config.json": config(quantization_config={"bits": 4})}), UnsupportedNetwork, "quantized already",
    ),
    "doubles": (folder(**{"config.json": config(torch_dtype="float64")}), UnsupportedNetwork, "torch_dtype 'float64'"),
    "layers": (folder(**{"config.json": config(num_hidden_layers=10**9)}), UnsafeFile, "num_hidden_layers 1000000000"),
    "depths": (folder(**{"config.json": config(depths=[2, 10**6])}), UnsafeFile, "depths 1000000"),
    "labels": (folder(**{"config.json": config(num_labels=10**8)}), UnsafeFile, "num_labels 100000000"),
    "width": (folder(**{"config.json": config(vision_config={"hidden_size": 10**7})}), UnsafeFile, "hidden_size"),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_each_crafted_folder_is_refused_for_what_is_wrong_with_it(name, tmp_path):
    members, error, said = CRAFTED[name]
    for suffix in (".zip", ".tar"):
        with pytest.raises(error) as found:
            admit(write(tmp_path / f"a{suffix}", members), "huggingface")
        assert said in found.value.detail
        assert found.value.hint or error is NonFiniteWeights or "config.json" in found.value.detail


def link(archive, name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)


def test_archives_are_refused_that_are_no_plain_folders(tmp_path):
    path = write(tmp_path / "link.tar", folder())
    with tarfile.open(path, "a") as archive:
        link(archive, "vocab.txt", "/etc/passwd")
    with pytest.raises(UnsafeFile, match="a link or a device") as found:
        admit(path, "huggingface")
    assert "--dereference" in found.value.hint
    for name, said in (("../model.py", "out of the archive"), ("CONFIG.json", "more than once")):
        for suffix in (".zip", ".tar"):
            with pytest.raises(UnsafeFile, match=said):
                admit(write(tmp_path / f"a{suffix}", folder(**{name: b""})), "huggingface")
    damaged = bytearray(write(tmp_path / "damaged.zip", folder(**{"vocab.txt": b"[PAD]" * 9})).read_bytes())
    damaged[damaged.rindex(b"vocab.txt", 0, damaged.index(b"PK\x01\x02")) + 12] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(CorruptFile, match=r"vocab\.txt"):
        admit(tmp_path / "damaged.zip", "huggingface")
    cut = write(tmp_path / "cut.tar", folder()).read_bytes()
    (tmp_path / "cut.tar").write_bytes(cut[:700])
    with pytest.raises(CorruptFile):
        admit(tmp_path / "cut.tar", "huggingface")
