"""Runs hostile files through admission and, where one is let pass, through its loader; and counts how each ended."""

import os
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from app.domain.errors import WinnowError
from tests.compression.folders import png, write_tar, write_zip
from tests.hostile.aftermath import CONTENTS, work_with
from tests.hostile.crafted import make_all
from tests.hostile.labels import make_labels
from tests.hostile.mutations import mutate
from tests.hostile.networks import NETWORKS
from workers.compression.admission import admit
from workers.compression.dataset_inspection import inspect_dataset
from workers.compression.formats import pt2
from workers.compression.formats.models import load_model
from workers.compression.formats.rows import rows_folder

LOADERS: dict[str, Callable[[Path], object]] = {
    "pt2": pt2.load,
    "onnx": lambda path: load_model(path, "onnx"),
    "npz": lambda path: inspect_dataset(path, "npz"),
    "safetensors": lambda path: inspect_dataset(path, "safetensors"),
    "zip": lambda path: inspect_dataset(path, "zip"),
    "tar": lambda path: inspect_dataset(path, "tar"),
    "parquet": lambda path: inspect_dataset(path, "parquet"),
}


@dataclass
class Tally:
    """``ends`` counts by group and code, ``passed`` names what loaded, ``reasons`` why files were not admitted.

    ``after`` counts, of damaged files that loaded, those that still say what they said, those that say something
    else, and what came of working with the latter.
    """

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    after: dict[str, Counter[str]] = field(default_factory=dict)
    passed: list[Path] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, group: str, end: str) -> None:
        self.ends.setdefault(group, Counter())[end] += 1

    @property
    def files(self) -> int:
        return sum(sum(counts.values()) for counts in self.ends.values())

    def lines(self) -> Iterator[str]:
        for group, counts in self.ends.items():
            ends = ", ".join(f"{end} {count}" for end, count in counts.most_common())
            yield f"{group:24} {sum(counts.values()):5}  {ends}"
            if after := self.after.get(group):
                yield f"{'':32}{after['unchanged']} of them say what they said; valid after mutation: " + _told(after)
        yield f"{'all':24} {self.files:5}  peak memory {peak_bytes() >> 20} MiB"


def _told(after: Counter[str]) -> str:
    refused = {end: count for end, count in after.items() if end not in {"unchanged", "changed", "harmless"}}
    told = ", ".join(f"{end} {count}" for end, count in refused.items())
    return f"{after['changed']}, run harmlessly: {after['harmless']}, refused when run: {told or 0}"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(tally: Tally, group: str, kind: str, path: Path) -> None:
    """Send one file the way a job would; anything but a clean refusal or a whole load is raised."""
    try:
        admit(path, kind)
    except WinnowError as error:
        tally.add(group, error.code)
        tally.reasons[path.name] = f"{error.code}: {error.detail.replace(str(path.parent), '')}"
        return
    try:
        LOADERS[kind](path)
    except WinnowError as error:
        tally.add(group, f"loader:{error.code}")
        tally.reasons[path.name] = f"{error.code}: {error.detail}".replace(str(path.parent), "")
        return
    finally:
        shutil.rmtree(rows_folder(path), ignore_errors=True)
    tally.add(group, "loaded")
    tally.passed.append(path)


def write_real(folder: Path) -> dict[str, Path]:
    """Write one real file a format."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    files = {kind: folder / f"real.{kind}" for kind in LOADERS}
    torch.export.save(NETWORKS["residual_batch"](), files["pt2"])
    arrays = {
        "train.x": rng.normal(size=(40, 8)).astype("float32"),
        "train.y": rng.integers(0, 4, 40),
        "validation.x": rng.normal(size=(10, 8)).astype("float32"),
        "validation.y": rng.integers(0, 4, 10),
    }
    np.savez_compressed(files["npz"], **arrays)
    save_file(arrays, files["safetensors"])
    table = {"x": arrays["train.x"].tolist(), "y": arrays["train.y"].tolist(), "split": ["train"] * 40}
    pq.write_table(pa.table(table), files["parquet"], write_page_checksum=True)
    pictures = [
        (f"{split}/{label}/{row}.png", png(rng.integers(0, 256, (8, 8, 3), "uint8")))
        for split in ("train", "validation")
        for label in "ab"
        for row in range(4)
    ]
    write_zip(files["zip"], pictures)
    write_tar(files["tar"], pictures)
    files["onnx"].write_bytes(_real_onnx(rng).SerializeToString())
    return files


def _real_onnx(rng: np.random.Generator) -> onnx.ModelProto:
    shapes = {"a": (8, 3, 3, 3), "b": (8,), "c": (8, 10), "d": (10,)}
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, rng.normal(size=shape).astype("<f4").tobytes(), raw=True)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a", "b"], ["conv"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "c", "d"], ["y"], name="head"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(helper.make_graph(nodes, "real", [x], [y], weights), opset_imports=opset, ir_version=9)


def run_crafted(tally: Tally, folder: Path, real: Path, marker: Path) -> None:
    os.environ["MARKER"] = str(marker)
    for kind, path in make_all(folder, real):
        run(tally, f"crafted .{kind}", kind, path)


def run_labels(tally: Tally, folder: Path) -> None:
    for kind, path in make_labels(folder):
        run(tally, "labels", kind, path)


def run_mutations(tally: Tally, folder: Path, files: dict[str, Path], each: int) -> None:
    """Damage each real file ``each`` times, and work with what is let pass and says something else than before."""
    for kind, real in files.items():
        content, said = real.read_bytes(), CONTENTS[kind](real)
        group = f"mutated .{kind}"
        for seed in range(each):
            path = folder / f"mutated.{kind}"
            path.write_bytes(mutate(content, seed))
            passed = len(tally.passed)
            run(tally, group, kind, path)
            if len(tally.passed) > passed:
                _look_after(tally.after.setdefault(group, Counter()), kind, path, said)


def _look_after(after: Counter[str], kind: str, path: Path, said: object) -> None:
    if CONTENTS[kind](path) == said:
        after["unchanged"] += 1
        return
    after["changed"] += 1
    after[work_with(kind, path) or "harmless"] += 1
