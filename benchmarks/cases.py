"""The reference cases through the service, beside what a user would pick instead, in one table.

``python -m benchmarks.cases`` (``make bench``) after ``make bench-setup``, with network F trained by
``python -m benchmarks.reference``. All are judged on the same rows; what trains does so for the same epochs on the same
rows; each file is timed in turn with its float file, on rows of the same data, at batch 1 on one thread, while nothing
else that asks for the turn measures on this host. Files and lines are kept in the cache as they come, so that a run
that is cut off goes on. A line of another machine or of other code is measured again; a file that other code made is
kept, as training takes hours, and its line says so.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import winnow

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from demo import service

from app.domain.steps.training import FinetuneSpec
from benchmarks import peer
from benchmarks.kept import Kept, Made, Row, alone, code_version, machine, today
from benchmarks.quantization import by_nncf, by_runtime, predict
from benchmarks.recovery import as_network, fashion_rows, make_context
from benchmarks.reference import CACHE, read_network_f
from benchmarks.subjects import Array, Subject, classifier, efficientnet_lite0, network_f
from workers.compression.formats import onnx, pt2
from workers.compression.latency import measure_pair, name_rows
from workers.compression.training import finetune

FOLDER = CACHE / "cases"
EPOCHS, RATE, BATCH = 4, 0.02, 128
MACS_RATIO = 6.0
TRAINING = {"epochs": EPOCHS, "learning_rate": RATE, "batch_size": BATCH}
STATIC = {"method": "quantize", "scheme": "static"}


Make = Callable[["Case", Path], float]
"""Writes a file, and gives the seconds that went into what it found in the cache."""


@dataclass(frozen=True)
class Case:
    """A float network with labels; ``train`` is empty where nothing of it trains."""

    subject: Subject
    labels: Array
    train: tuple[tuple[Array, ...], Array] | None
    recipe: list[dict[str, Any]]
    peers: dict[str, Make]

    @property
    def path(self) -> Path:
        return FOLDER / self.subject.name

    def write(self) -> None:
        """Write the float network as an upload and as the file that all are timed against, and the data set."""
        self.path.mkdir(parents=True, exist_ok=True)
        pt2.save(self.subject.network, self.path / "model.pt2")
        onnx.save(self.subject.network, self.path / "float.onnx")
        names = [value.name for value in self.subject.network.signature.inputs]
        splits = {"calibration": (self.subject.calibration, None), "validation": (self.subject.rows, self.labels)}
        if self.train is not None:
            splits["train"] = self.train
        arrays = {
            f"{split}.{name}": values
            for split, (inputs, _) in splits.items()
            for name, values in zip(names, inputs, strict=True)
        }
        arrays |= {f"{split}.y": labels for split, (_, labels) in splits.items() if labels is not None}
        np.savez(self.path / "data.npz", allow_pickle=False, **arrays)

    def by_service(self, written: Path) -> float:
        """Run the recipe as a job, and keep its report beside its file."""
        with (
            tempfile.TemporaryDirectory(prefix="winnow-bench-") as folder,
            service(Path(folder)) as (url, key),
            winnow.Client(url, key) as client,
        ):
            model, data = self.path / "model.pt2", self.path / "data.npz"
            job = client.submit_job(model, data, self.recipe, time_limit_seconds=4 * 3600).result()
            written.with_suffix(".json").write_text(json.dumps(job.get_report(), indent=2), encoding="utf-8")
            job.download_target_model(written)
        return 0.0

    def row(self, name: str, make: Make) -> Row:
        """Give a line from the cache, or make its file and measure it."""
        slug = name.replace(" ", "-").replace("+", "and")
        return Kept(self.path).row(slug, lambda: self._measured(*self.made(slug, make)))

    def made(self, slug: str, make: Make) -> tuple[Path, Made]:
        """Give a file from the cache with what it took, or make it."""
        if not (self.path / "float.onnx").exists():
            self.write()
        path = self.path / f"{slug}.onnx"
        return path, Kept(self.path).made(path, lambda: make(self, path))

    def _measured(self, path: Path, made: Made) -> Row:
        whole = self.path / "float.onnx"
        right = int((predict(path, self.subject.rows).argmax(1) == self.labels).sum())
        with alone():
            (pair,) = measure_pair(whole, path, (1,), 1, name_rows(whole, self.subject.rows))
        return Row(
            right=right,
            rows=len(self.labels),
            latency_ratio=pair.ratio.value,
            latency_ci95=pair.ratio.ci95,
            noisy=pair.noisy,
            size_ratio=whole.stat().st_size / path.stat().st_size,
            seconds=made.seconds,
            measured_at=today(),
            measured_by=f"{machine()}, code {code_version()}",
            made_at=made.at,
            made_by=made.by,
        )


def by_runtime_static(case: Case, written: Path) -> float:
    by_runtime(case.subject, case.path / "float.onnx", written, dynamic=False)
    return 0.0


def by_nncf_default(case: Case, written: Path) -> float:
    by_nncf(case.subject, case.path / "float.onnx", written)
    return 0.0


def by_peer_pruning(_: Case, written: Path) -> float:
    """Prune F by Torch-Pruning as it comes, and fine-tune on the labels."""
    module, _epochs = read_network_f()
    pruned = peer.prune_by_peer(module, MACS_RATIO, scope="global")
    data = fashion_rows(60_000)
    with tempfile.TemporaryDirectory() as folder:
        context = make_context(as_network(module), data, Path(folder), 0)
        spec = FinetuneSpec.model_validate({"method": "finetune"} | TRAINING)
        result = finetune.run(pruned, spec, context)
    onnx.save(result.network, written)
    return 0.0


def by_peer_pruning_and_runtime(case: Case, written: Path) -> float:
    """Quantize what Torch-Pruning and the fine-tuning left by ONNX Runtime's own tools."""
    began = time.monotonic()
    source, made = case.made("torch-pruning-and-fine-tune", by_peer_pruning)
    waited = time.monotonic() - began
    by_runtime(case.subject, source, written, dynamic=False)
    return made.seconds - waited  # where it was made just now, the clock of this file has run for it already


QUANTIZERS: dict[str, Make] = {"onnxruntime static": by_runtime_static, "nncf default": by_nncf_default}
PRUNERS: dict[str, Make] = {
    "torch-pruning + fine-tune": by_peer_pruning,
    "torch-pruning + fine-tune + onnxruntime int8": by_peer_pruning_and_runtime,
}


def case_f() -> Case:
    data = fashion_rows(60_000)
    train, held = data.splits["train"], data.splits["validation"]
    assert train.labels is not None
    assert held.labels is not None
    recipe: list[dict[str, Any]] = [
        {"method": "prune", "granularity": "channel", "macs_ratio": MACS_RATIO},
        {"method": "distill", **TRAINING},
        STATIC,
    ]
    return Case(network_f(10_000), held.labels, (train.inputs, train.labels), recipe, QUANTIZERS | PRUNERS)


def case_minilm() -> Case:
    subject, labels = classifier()
    return Case(subject, labels, None, [STATIC], QUANTIZERS)


def case_efficientnet() -> Case:
    """Judge by the float network's own choices: no labels of these crops are known."""
    subject = efficientnet_lite0(10_000)
    with torch.no_grad():
        parts = torch.from_numpy(np.array(subject.rows[0])).split(32)
        labels = np.concatenate([subject.network.module(part).argmax(1).numpy() for part in parts])
    return Case(subject, labels, None, [STATIC], QUANTIZERS)


CASES: dict[str, Callable[[], Case]] = {
    "f": case_f,
    "minilm": case_minilm,
    "efficientnet-lite0": case_efficientnet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    asked = parser.parse_args()
    print(f"{today()}, {machine()}, code {code_version()}")
    print("| case | way | accuracy (95 %) | p50 faster (95 %) | file smaller | seconds | measured | made |")
    print("|---|---|---|---|---|---|---|---|")
    for name in asked.cases:
        case = CASES[name]()
        ways = {"winnow": Case.by_service} | case.peers
        for way, make in ways.items():
            print(f"| {name} | {way} | {case.row(way, make)} |", flush=True)


if __name__ == "__main__":
    main()
