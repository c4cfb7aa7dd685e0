"""What the training loop costs beside a bare one, and distillation with cached outputs beside fine-tuning.

``python -m benchmarks.training`` trains the small network of digits and the untrained network F, by the engine and by a
loop as one writes it by hand, in turn, and prints the medians and their ratios: bounds are 1.05 and 1.15. The bare loop
does the same steps on the plain ``nn.Module``: it trains the same batches at the same rates, judges the same held-out
rows after every epoch, keeps the best weights and writes a checkpoint to go on from. The engine's ratio without any
checkpoints on either side is told as well. Times are the processor's, on one thread.
"""

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from app.domain.steps.distill import DistillSpec
from app.domain.steps.training import FinetuneSpec, TrainingSpec
from benchmarks.reference import NetworkF, fashion_mnist
from benchmarks.subjects import lifted
from workers.compression.checkpoints import Checkpoints
from workers.compression.datasets import Dataset, Split
from workers.compression.distillation import distill
from workers.compression.distillation.teacher import TEACHER_FILE, write_targets
from workers.compression.network import Network
from workers.compression.step import Context
from workers.compression.tasks import Classification
from workers.compression.training import finetune
from workers.compression.training.criterion import LabelLoss
from workers.compression.training.optimizer import learning_rate
from workers.compression.training.rows import shuffled, split_rows
from workers.compression.training.state import Run

LOOP_BOUND, DISTILLATION_BOUND = 1.05, 1.15


@dataclass(frozen=True)
class Case:
    """A network with rows to train on, as arrays and as the engine reads them."""

    name: str
    module: nn.Module
    network: Network
    data: Dataset
    epochs: int
    repeats: int

    @property
    def given(self) -> dict[str, float | int | str]:
        return {"epochs": self.epochs, "learning_rate": 0.01, "precision": "float32"}


def make_case(name: str, module: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int, repeats: int) -> Case:
    split = Split((x,), y, np.arange(len(x)))
    return Case(name, module, lifted(module, (x,)), Dataset({"train": split}, (torch.float32,)), epochs, repeats)


def small_network() -> nn.Module:
    """Give a network whose steps take some two milliseconds, so that what surrounds them shows."""
    first = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 10))


def digits_case(repeats: int) -> Case:
    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32)[:1437]
    return make_case("digits", small_network(), images, y[:1437].astype(np.int64), 20, repeats)


def f_case(repeats: int) -> Case:
    x, y = fashion_mnist("train")
    return make_case("F", NetworkF(), x[:720], y[:720], 1, repeats)


def train_bare(case: Case, spec: TrainingSpec, folder: Path | None) -> None:
    """Train as a script would, with a checkpoint an epoch in the folder, or without where there is none."""
    module = copy.deepcopy(case.module)
    split = case.data.splits["train"]
    assert split.labels is not None
    x, y = torch.from_numpy(split.inputs[0]), torch.from_numpy(split.labels)
    fitted, held = split_rows(len(x), 0)
    optimizer = torch.optim.SGD(
        module.parameters(), spec.learning_rate, momentum=0.9, nesterov=True, weight_decay=spec.weight_decay
    )
    best, kept, step = -1.0, None, 0
    for epoch in range(1, spec.epochs + 1):
        module.train()
        batches = [torch.from_numpy(rows) for rows in shuffled(fitted, spec.batch_size, 0, epoch)]
        losses = []
        for rows in batches:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, spec.epochs * len(batches), spec)
            loss = F.cross_entropy(module(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        module.eval()
        with torch.no_grad():
            picked = torch.from_numpy(held)
            hits = sum(int((module(x[rows]).argmax(1) == y[rows]).sum()) for rows in picked.split(256))
        if hits / len(held) > best:
            best, kept = hits / len(held), copy.deepcopy(module.state_dict())
        if folder is not None:
            state = {"epoch": epoch, "model": module.state_dict(), "best": kept, "optimizer": optimizer.state_dict()}
            torch.save(state, folder / f"epoch-{epoch:04d}.pt")
            (folder / f"epoch-{epoch - 2:04d}.pt").unlink(missing_ok=True)
    assert kept is not None
    assert math.isfinite(sum(losses))
    module.load_state_dict(kept)


def train_by_engine(case: Case, kind: str, folder: Path, *, keeping: bool = True) -> None:
    kept = Checkpoints(folder / "checkpoints", 1, lambda *_: None) if keeping else None
    context = Context(case.network, case.data, 0, torch.device("cpu"), lambda _: None, folder, checkpoints=kept)
    if kind == "distill":
        distill.run(case.network, DistillSpec.model_validate({"method": kind, **case.given}), context)
    else:
        finetune.run(case.network, FinetuneSpec.model_validate({"method": kind, **case.given}), context)


def seconds_of(work: Callable[[], object]) -> float:
    """Give the processor's seconds: on a machine with other work on it, the clock on the wall tells of that."""
    began = time.process_time()
    work()
    return time.process_time() - began


def checkpoint_seconds(case: Case, folder: Path) -> float:
    """Measure what a checkpoint takes by the clock on the wall, with the wait for the disk."""
    spec = FinetuneSpec.model_validate({"method": "finetune", **case.given})
    run = Run(case.network, spec, LabelLoss(Classification()), torch.device("cpu"))
    run.best_weights = run.module.state_dict()
    kept = Checkpoints(folder / "checkpoints", 1, lambda *_: None)
    times = []
    for epoch in range(10):
        began = time.perf_counter()
        kept.save(epoch, run.state(finished=False), finished=False)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def compute_teacher(case: Case, folder: Path) -> None:
    """Compute the teacher's outputs, which is done once however many epochs there are."""
    context = Context(case.network, case.data, 0, torch.device("cpu"), lambda _: None, folder)
    write_targets(case.network, context, folder / TEACHER_FILE)


def loading_share(case: Case) -> float:
    """Measure the share of a training step that reading its rows takes."""
    spec = FinetuneSpec.model_validate({"method": "finetune", **case.given})
    batches = list(shuffled(split_rows(case.data.rows("train"), 0)[0], spec.batch_size, 0, 1))
    reading = seconds_of(lambda: [case.data.gather("train", rows) for rows in batches])
    module = copy.deepcopy(case.network.module).train()

    def steps() -> None:
        for rows in batches:
            (x,), y = case.data.gather("train", rows)
            F.cross_entropy(module(x), y).backward()

    return reading / seconds_of(steps)


def measure(case: Case) -> None:
    spec = FinetuneSpec.model_validate({"method": "finetune", **case.given})
    works: dict[str, Callable[[Path], object]] = {
        "bare": lambda folder: train_bare(case, spec, folder),
        "finetune": lambda folder: train_by_engine(case, "finetune", folder),
        "bare, nothing kept": lambda _: train_bare(case, spec, None),
        "finetune, nothing kept": lambda folder: train_by_engine(case, "finetune", folder, keeping=False),
        "distill": lambda folder: train_by_engine(case, "distill", folder),
        "teacher": lambda folder: compute_teacher(case, folder),
    }
    times: dict[str, list[float]] = {kind: [] for kind in works}
    for repeat in range(case.repeats + 1):
        for kind, work in works.items():
            with tempfile.TemporaryDirectory(prefix="winnow-training-") as name:
                seconds = seconds_of(partial(work, Path(name)))
            if repeat:  # the first warms everything up
                times[kind].append(seconds)
    loop, unkept = (
        [engine / bare for engine, bare in zip(times[f"finetune{how}"], times[f"bare{how}"], strict=True)]
        for how in ("", ", nothing kept")
    )
    cached = [
        (distilled - teacher) / tuned
        for distilled, teacher, tuned in zip(times["distill"], times["teacher"], times["finetune"], strict=True)
    ]
    medians = ", ".join(f"{kind} {statistics.median(found):.3f} s" for kind, found in times.items())
    print(f"{case.name}: {medians} ({case.repeats} repeats of {case.epochs} epochs)")
    for what, ratios, bound in (
        ("engine / bare", loop, LOOP_BOUND),
        ("engine / bare, nothing kept", unkept, LOOP_BOUND),
        ("cached distill / finetune", cached, DISTILLATION_BOUND),
    ):
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"  {what}: median {middle:.3f} ({low:.3f} to {high:.3f}); bound {bound}")
    with tempfile.TemporaryDirectory(prefix="winnow-training-") as name:
        kept = checkpoint_seconds(case, Path(name))
    print(f"  reading rows is {loading_share(case):.2%} of a step; a checkpoint takes {kept * 1000:.0f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the training loop against a bare one.")
    parser.add_argument("--digits-repeats", type=int, default=15)
    parser.add_argument("--f-repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    measure(digits_case(asked.digits_repeats))
    measure(f_case(asked.f_repeats))


if __name__ == "__main__":
    main()
