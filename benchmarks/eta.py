"""How well a job knows what is left of it: predicted seconds beside those that it then took.

``python -m benchmarks.eta`` runs jobs of several epochs by the engine, on the network of 5,000 MNIST digits and on the
untrained network F, and prints what each told behind every epoch. The bound is 30 % from the first epoch on.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from digits import DigitsNet, save_digits

from app.domain.job import EventType, LatencySpec
from app.domain.recipe import Recipe
from app.domain.task import ArtifactMessage, EventMessage
from benchmarks.reference import NetworkF, fashion_mnist
from benchmarks.subjects import lifted
from workers.compression.datasets import Dataset, Split, load_dataset
from workers.compression.network import Network
from workers.compression.pipeline import Output, compress

BOUND = 0.3
PRUNE = {"method": "prune", "amount": 0.3}
JOBS: dict[str, list[dict[str, Any]]] = {
    "distill and quantize": [PRUNE, {"method": "distill", "epochs": 5}, {"method": "quantize"}],
    "finetune twice": [{"method": "finetune", "epochs": 2}, PRUNE, {"method": "finetune", "epochs": 3}],
    "prune in rounds": [{**PRUNE, "rounds": 3, "recovery_epochs": 2}, {"method": "quantize", "scheme": "dynamic"}],
    "qat": [{"method": "quantize", "scheme": "qat", "epochs": 4}],
}


class Watch:
    """Notes what a job tells of the seconds left, and when; behind each epoch the first that is told."""

    def __init__(self) -> None:
        self.told: list[tuple[float, float, str]] = []
        self.parts: list[tuple[str, float]] = []
        self._began = time.monotonic()
        self._epochs = self._heard = 0

    def __call__(self, event: EventMessage) -> None:
        if event.type is EventType.METRIC and event.data["name"] == "loss":
            self._epochs += 1
        elif event.type is EventType.STAGE:
            self.parts.append((event.data["stage"], time.monotonic() - self._began))
        elif event.type is EventType.PROGRESS and self._epochs > self._heard:
            seconds = event.data.get("eta_seconds")
            if seconds is not None:
                self._heard = self._epochs
                self.told.append((time.monotonic() - self._began, seconds, f"epoch {self._epochs}"))

    def print_rows(self, name: str) -> None:
        whole = time.monotonic() - self._began
        ends = [at for _, at in self.parts[1:]] + [whole]
        parts = ", ".join(f"{stage} {end - at:.1f}" for (stage, at), end in zip(self.parts, ends, strict=True))
        print(f"{name}: {whole:.1f} s ({parts})")
        for at, seconds, where in self.told:
            real = whole - at
            error = seconds / real - 1
            mark = "" if abs(error) <= BOUND else "  beyond the bound"
            print(f"  behind {where}: {seconds:6.1f} s predicted, {real:6.1f} s taken, {error:+.0%}{mark}", flush=True)


def digits_job(folder: Path) -> tuple[Network, Dataset]:
    save_digits(folder / "digits.npz")
    network = lifted(DigitsNet(), (np.zeros((2, 1, 28, 28), np.float32),))
    return network, load_dataset(folder / "digits.npz", "npz", network.signature, 0)


def f_job(_: Path) -> tuple[Network, Dataset]:
    x, y = fashion_mnist("train")
    held_x, held_y = fashion_mnist("t10k")
    splits = {
        "train": Split((x,), y, np.arange(1500)),
        "calibration": Split((x,), y, np.arange(1500, 2012)),
        "validation": Split((held_x,), held_y, np.arange(1000)),
    }
    return lifted(NetworkF(), (x[:2],)), Dataset(splits, (torch.float32,))


def run(name: str, network: Network, data: Dataset, recipe: list[dict[str, Any]]) -> None:
    def publish(_: ArtifactMessage) -> None:
        """Keep the files where they are."""

    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="winnow-eta-") as folder:
        output = Path(folder) / "out"
        output.mkdir()
        compress(
            network,
            TypeAdapter(Recipe).validate_python(recipe),
            data,
            objective=None,
            latency=LatencySpec(),
            seed=0,
            device=torch.device("cpu"),
            output=Output(output, Path(folder) / "checkpoints", watch, publish),
            service_version="benchmark",
        )
        watch.print_rows(name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the seconds a job says are left with those that it takes.")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--networks", nargs="+", choices=("digits", "F"), default=["digits", "F"])
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(mode=True)
    with tempfile.TemporaryDirectory(prefix="winnow-eta-") as folder:
        for subject, make in (("digits", digits_job), ("F", f_job)):
            if subject in asked.networks:
                network, data = make(Path(folder))
                for name in asked.jobs:
                    run(f"{subject}, {name}", network, data, JOBS[name])


if __name__ == "__main__":
    main()
