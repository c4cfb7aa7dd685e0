"""What distillation gains over labels alone, on network F and on MiniLM.

``python -m benchmarks.distillation students`` trains a student of a quarter of F's width on labels alone and by each
loss on logits, over three seeds, and ``more`` does so on four times the rows. ``recovery`` lets F, pruned to a quarter
of its MACs, come back by either way within ever more epochs. ``texts`` teaches half of MiniLM's layers by the cosine to
its embeddings of Reuters R8, without labels. Rows are kept in the cache as they come, so that a run that was cut off
goes on; whatever changes a row changes its key.
``tune`` tries rates and temperatures as the rows of the students were tuned: on rows of train that none of them sees.
"""

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from app.domain.learning_task import LearningTask
from app.domain.steps.distill import DerivedStudent, DistillSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.training import FinetuneSpec
from benchmarks.recovery import BATCH, accuracy_of, as_network, fashion_rows, make_context, teacher_outputs
from benchmarks.reference import CACHE, fashion_mnist, read_network_f
from benchmarks.subjects import embed, minilm_rows
from workers.compression.counting import count_macs, count_parameters
from workers.compression.datasets import Dataset, Split
from workers.compression.distillation import distill, losses, students
from workers.compression.distillation import imitation as imitations
from workers.compression.distillation.imitation import Imitation
from workers.compression.distillation.teacher import TEACHER_FILE, Outputs, Teacher
from workers.compression.environment import read_environment
from workers.compression.network import Network
from workers.compression.pruning import prune
from workers.compression.step import Context
from workers.compression.tasks import TASKS
from workers.compression.training.criterion import LabelLoss
from workers.compression.training.loop import fit

ROWS, EPOCHS, WIDTH = 6_000, 6, 0.25
MORE_ROWS, LESS_EPOCHS = 24_000, 4
SEEDS = (0, 1, 2)
TUNING_SEED, TUNING_ROWS = 100, 5_000
"""Rows of train behind those that the students learn from judge what is tuned."""
T_95 = 4.303
"""Student's t for 95 % with three seeds."""
BASIC: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.02, "precision": "float32"}
METHODS: dict[str, dict[str, Any] | None] = {
    "labels": None,
    "kd": {"loss": "kd", "temperature": 4, "alpha": 0.9},
    "kd standardized": {
        "loss": "kd",
        "temperature": 8,
        "alpha": 0.9,
        "logit_standardization": True,
        "learning_rate": 0.05,
    },
    "dkd": {"loss": "dkd", "temperature": 2, "alpha": 0.9, "dkd_beta": 2},
}
"""What each method imitates, None for labels alone; a rate where the best one is not that of all.

Behind standardization a gradient is the smaller the larger the student's logits are: it wants a higher rate.
"""
STANDARDIZED: tuple[dict[str, Any], ...] = (
    *({"temperature": t, "learning_rate": rate} for rate in (0.02, 0.05, 0.1) for t in (1, 2, 4, 8)),
    *({"temperature": t, "loss": None, "losses": {"kd": weight}} for weight, t in ((4, 2), (10, 1), (10, 2))),
)
"""The method's own paper has a weight of 9 to 0.1 of the labels, at T = 2."""
TRIED: dict[str, tuple[dict[str, Any], ...]] = {
    "kd": ({"temperature": 2}, {}, {"learning_rate": 0.05}),
    "kd standardized": STANDARDIZED,
    "dkd": ({}, {"temperature": 4}, {"dkd_beta": 4}, {"learning_rate": 0.01}, {"learning_rate": 0.05}),
}
"""What of each was tried on rows of train that no student learns from."""
RECOVERY_EPOCHS = (1, 2, 3, 4, 6, 8)
TEXTS = 1500
"""Of Reuters R8's 5,485 that train, the first, in the fixed order in which they are read."""


class Kept:
    """Figures of earlier runs of the same code on the same F."""

    def __init__(self, key: str) -> None:
        self._path = CACHE / f"distillation-{key}.json"
        self._rows: dict[str, dict[str, Any]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self._rows:
            began = time.monotonic()
            self._rows[name] = make() | {"seconds": time.monotonic() - began}
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(self._rows, indent=1))
            partial.replace(self._path)
        return self._rows[name]


@dataclass(frozen=True)
class Bench:
    """Network F, its rows and what it puts out on them."""

    network: Network
    folder: Path
    key: str
    kept: Kept

    def context(self, rows: int, seed: int) -> Context:
        return make_context(self.network, fashion_rows(rows), self.folder, seed)

    def targets(self, rows: int) -> Outputs:
        """Give F's outputs on the first rows of train."""
        return teacher_outputs(self.context(rows, 0), CACHE / f"teacher-{rows}-{self.key}.npy")

    def train(
        self, network: Network, given: Mapping[str, Any] | None, basic: Mapping[str, Any], context: Context
    ) -> Any:
        """Train by the product's loop, on labels alone or by the loss that is given."""
        if given is None:
            finetune = FinetuneSpec(method="finetune", **basic)
            return fit(network, finetune, context, LabelLoss(context.task))
        spec = DistillSpec.model_validate({"method": "distill", **basic, **given})
        teacher = Teacher(
            self.network, 0, context, self.folder / TEACHER_FILE, self.targets(context.data.rows("train"))
        )
        criterion = Imitation(spec, LabelLoss(context.task), teacher)
        return fit(network, spec, context, criterion, criterion.advance)

    def student(self, context: Context) -> Network:
        return students.derive(self.network, DerivedStudent(width=WIDTH), context).network


def _key(network: Network) -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for value in network.module.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


def _name(*parts: object) -> str:
    """Name a row by all that it depends on but F."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (losses, imitations, students))
    return f"{' '.join(map(str, parts))} {hashlib.sha256(sources).hexdigest()[:8]}"


def interval(values: list[float]) -> float:
    """Give half the 95 % interval of a mean over the seeds, by Student's t."""
    return T_95 * stdev(values) / math.sqrt(len(values))


def compare_students(bench: Bench, rows: int = ROWS, epochs: int = EPOCHS) -> None:
    """Print the table of the students; differences are taken seed by seed, as a seed gives all the same rows."""
    student, basic = bench.student(bench.context(rows, 0)), BASIC | {"epochs": epochs}
    print(
        f"student: width {WIDTH}, {count_macs(bench.network) / count_macs(student):.1f} times fewer MACs,"
        f" {count_parameters(bench.network) / count_parameters(student):.1f} times fewer parameters;"
        f" {rows} rows, {basic}"
    )
    found: dict[str, list[float]] = {}
    for method, given in METHODS.items():
        found[method] = []
        for seed in SEEDS:

            def make(given: dict[str, Any] | None = given, seed: int = seed) -> dict[str, Any]:
                context = bench.context(rows, seed)
                result = bench.train(bench.student(context), given, basic, context)
                return {"accuracy": accuracy_of(result.network, context), "best_epoch": result.details["best_epoch"]}

            row = bench.kept.get(_name("student", method, seed, given, rows, WIDTH, basic), make)
            found[method].append(row["accuracy"])
            print(f"{method:<16} seed {seed}: {row['accuracy']:.4f}, {row['seconds']:.0f} s", flush=True)
    for method, values in found.items():
        line = f"{method:<16} mean {fmean(values):.4f}, spread {stdev(values):.4f}"
        for other in ("labels", "kd"):
            gains = [one - two for one, two in zip(values, found[other], strict=True)]
            line += f"; to {other} {fmean(gains):+.4f} ± {interval(gains):.4f}"
        print(line)


def compare_beginnings(bench: Bench) -> None:
    """Print what the weights that a derived student takes over are worth, beside weights drawn anew."""
    for begins in ("inherited", "drawn"):

        def make(begins: str = begins) -> dict[str, Any]:
            context = bench.context(ROWS, 0)
            student = bench.student(context)
            if begins == "drawn":
                torch.manual_seed(0)
                for part in student.module.modules():
                    if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                        part.reset_parameters()
            return {"accuracy": accuracy_of(bench.train(student, METHODS["kd"], BASIC, context).network, context)}

        row = bench.kept.get(_name("beginning", begins, METHODS["kd"], ROWS, WIDTH, BASIC), make)
        print(f"kd from weights {begins}, seed 0: {row['accuracy']:.4f}", flush=True)


def tune(bench: Bench) -> None:
    """Print accuracies on rows of train that no student learns from."""
    context = bench.context(ROWS, TUNING_SEED)
    x, y = fashion_mnist("train")
    apart = Split((x,), y, np.arange(len(y) - TUNING_ROWS, len(y)))
    judge = replace(context, data=Dataset({**context.data.splits, "validation": apart}, context.data.dtypes))
    for name, given, basic in _trials():

        def make(given: dict[str, Any] | None = given, basic: dict[str, Any] = basic) -> dict[str, Any]:
            result = bench.train(bench.student(context), given, basic, context)
            return {"accuracy": accuracy_of(result.network, judge)}

        row = bench.kept.get(_name("tune", name, given, ROWS, WIDTH, basic), make)
        print(f"{name:<16} {given} {basic}: {row['accuracy']:.4f}", flush=True)


def _trials() -> Iterator[tuple[str, dict[str, Any] | None, dict[str, Any]]]:
    for rate in (0.01, 0.02, 0.05):
        yield "labels", None, BASIC | {"learning_rate": rate}
    for method, changes in TRIED.items():
        given = METHODS[method]
        assert given is not None
        for change in changes:
            yield method, given | change, BASIC


def recover_pruned(bench: Bench) -> None:
    """Print within how many epochs the pruned F comes back, with distillation and with labels alone."""
    context = bench.context(ROWS, 0)
    pruned = prune.run(bench.network, PruneSpec(method="prune", macs_ratio=4), context).network
    whole = accuracy_of(bench.network, context)
    ratio = count_macs(bench.network) / count_macs(pruned)
    print(f"F {whole:.4f}; pruned to {ratio:.2f} times fewer MACs; {ROWS} rows, each line a training of its own")
    for method, given in (("labels", None), ("distill", METHODS["kd"])):
        for epochs in RECOVERY_EPOCHS:

            def make(given: dict[str, Any] | None = given, epochs: int = epochs) -> dict[str, Any]:
                result = bench.train(pruned, given, BASIC | {"epochs": epochs}, context)
                return {"accuracy": accuracy_of(result.network, context)}

            row = bench.kept.get(_name("recovery", method, given, ROWS, epochs, BASIC), make)
            drop = whole - row["accuracy"]
            print(f"{method:<8} {epochs} epochs: {row['accuracy']:.4f}, {drop:+.4f} below F", flush=True)


def teach_texts(bench: Bench) -> None:
    """Print what a linear probe tells of embeddings of MiniLM and of the student of half its layers."""
    (network, train, labels), (asked, wanted) = minilm_rows(TEXTS)
    rows = Split(train, None, np.arange(len(train[0])))
    data = Dataset({"train": rows}, (torch.int64, torch.int64))
    context = replace(make_context(network, data, bench.folder, 0), task=TASKS[LearningTask.EMBEDDING])

    def probe(found: Network) -> dict[str, Any]:
        from sklearn.linear_model import LogisticRegression

        head = LogisticRegression(max_iter=1000, C=10.0).fit(embed(found, train), labels)
        return {"accuracy": float((head.predict(embed(found, asked)) == np.array(wanted)).mean())}

    def learn() -> dict[str, Any]:
        given = {"loss": "cosine", "epochs": 2, "learning_rate": 1e-4, "optimizer": "adamw", "batch_size": 32}
        spec = DistillSpec.model_validate({"method": "distill", "student": {"depth": 0.5}, **given})
        result = distill.run(network, spec, context)
        told = result.details["epochs"][-1]
        return probe(result.network) | {"cosine": told["cosine"], "student": result.details["student"]}

    teacher = bench.kept.get(_name("texts teacher", TEXTS), lambda: probe(network))
    print(f"MiniLM, {len(asked[0])} texts: {teacher['accuracy']:.4f}, {teacher['seconds']:.0f} s", flush=True)
    half = DerivedStudent(depth=0.5)
    untaught = bench.kept.get(
        _name("texts untaught", TEXTS), lambda: probe(students.derive(network, half, context).network)
    )
    print(f"half its layers, untaught: {untaught['accuracy']:.4f}", flush=True)
    taught = bench.kept.get(_name("texts taught", TEXTS), learn)
    print(
        f"half its layers, taught by {TEXTS} texts: {taught['accuracy']:.4f},"
        f" {taught['accuracy'] - teacher['accuracy']:+.4f} to MiniLM; cosine on held-out texts {taught['cosine']:.4f};"
        f" {taught['seconds']:.0f} s"
    )


def main() -> None:
    parts = {"students": compare_students, "tune": tune, "recovery": recover_pruned, "texts": teach_texts}
    parts |= {"beginnings": compare_beginnings}
    parts |= {"more": partial(compare_students, rows=MORE_ROWS, epochs=LESS_EPOCHS)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=parts, default=["students", "more", "recovery", "texts"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = read_environment(torch.get_num_threads(), "benchmark")
    print(f"{found.cpu}, {', '.join(found.isa)}; {found.threads} threads; torch {found.torch}", flush=True)
    with tempfile.TemporaryDirectory(prefix="winnow-distillation-") as folder:
        module, _ = read_network_f()
        network = as_network(module)
        key = _key(network)
        for name in asked.part:
            print(f"\n{name}", flush=True)
            # Parts may run side by side, so that each keeps its own.
            parts[name](Bench(network, Path(folder), key, Kept(f"{name}-{key}")))


if __name__ == "__main__":
    main()
