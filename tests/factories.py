"""Files, facts and reports such as a user and a worker make, without torch."""

import io
import json
import secrets
import tarfile
import zipfile

from app.domain.dataset import DatasetFacts
from app.domain.model import ModelFacts

PRUNE = {"method": "prune", "amount": 0.5}
QUANTIZE = {"method": "quantize"}
FINETUNE = {"method": "finetune", "epochs": 1}


def archive(*names: str) -> bytes:
    """Make a zip whose members each hold something else, so that no two archives have one digest."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, secrets.token_bytes(512))
    return stream.getvalue()


def tar(*names: str) -> bytes:
    """Make a tar of two members such as :func:`archive` makes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 512
            file.addfile(entry, io.BytesIO(secrets.token_bytes(512)))
    return stream.getvalue()[: 2 * 1024 + 1024]  # without the blocks that fill it up


def pt2() -> bytes:
    """Make what the API takes for a network: it looks at names alone. A member of its own ends in an archive."""
    stream = io.BytesIO(archive("net/models/model.json", "net/data/weights/weight_0"))
    with zipfile.ZipFile(stream, "a") as file:
        file.writestr("net/data/sample_inputs/model.pt", archive("model/data.pkl", "model/version"))
    return stream.getvalue()


def onnx() -> bytes:
    """Make what the API takes for an ONNX model: its outermost fields."""
    fields = {b"\x12": b"factory", b"\x3a": secrets.token_bytes(400), b"\x42": b"\x10\x12"}
    parts = [tag + (varint(len(content))) + content for tag, content in fields.items()]
    return b"\x08\x09" + b"".join(parts)


def varint(number: int) -> bytes:
    more, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + varint(more) if more else bytes([low])


def npz() -> bytes:
    return archive("train.x.npy", "train.y.npy")


def safetensors() -> bytes:
    header = {"train.x": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + secrets.token_bytes(8)


def layer(**replaced) -> dict:
    known = {
        "name": "conv1",
        "op": "conv2d",
        "weight_shape": [16, 1, 3, 3],
        "parameters": 144,
        "macs": 9216,
        "prunable": True,
        "quantizable": True,
        "group": "g0",
        "reason": None,
    }
    return known | replaced


def model_facts(**replaced) -> ModelFacts:
    known = {
        "format": "pt2",
        "trainable": True,
        "signature": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 10]}],
        },
        "parameters": 144,
        "macs": 9216,
        "layers": [layer()],
    }
    return ModelFacts.model_validate(known | replaced)


def dataset_facts(**replaced) -> DatasetFacts:
    known = {
        "format": "npz",
        "splits": {"train": {"samples": 1437}, "validation": {"samples": 360}},
        "fields": [
            {"name": "x", "dtype": "float32", "shape": [1, 8, 8]},
            {"name": "y", "dtype": "int64", "shape": []},
        ],
        "classes": 10,
    }
    return DatasetFacts.model_validate(known | replaced)
