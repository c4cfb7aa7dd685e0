"""The recipes of docs/recipes.md, run through the service one after the other; prints the table that stands there.

``python -m benchmarks.recipes`` (``make bench-recipes``) after ``make bench-setup``. What is posted is read from the
document itself. The cases on Fashion-MNIST take network F from ``benchmarks.reference``; ``--cases`` runs some alone.
All data are real and come in packages.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import winnow
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from demo import service
from digits import save_digits, train
from digits import save_model as save_digits_model
from tables import save_patients, save_patients_model, save_pictures, save_pictures_model

from benchmarks.recovery import as_network
from benchmarks.reference import fashion_mnist, read_network_f
from benchmarks.subjects import minilm_classifier
from workers.compression.formats import pt2

Write = Callable[[Path, Path], None]
"""Writes the network as ``.pt2`` and the data set as ``.npz``."""

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"


def jobs() -> dict[str, dict[str, Any]]:
    """Read what the document posts beside the ids of model and data set, by the name of each case."""
    blocks = re.findall(r"^```json (\S+)\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return {name: json.loads(text) for name, text in blocks}


def write_digits(model: Path, data: Path) -> None:
    save_digits(data)
    save_digits_model(train(data), model)


def write_patients(model: Path, data: Path) -> None:
    save_patients(data)
    save_patients_model(data, model)


def write_pictures(model: Path, data: Path) -> None:
    save_pictures(data)
    save_pictures_model(data, model)


def write_clothes_alone(model: Path, data: Path) -> None:
    """Write network F with its 10,000 rows that judge and 512 labelled ones to calibrate on."""
    x, y = fashion_mnist("train")
    _write_clothes(model, data, {"calibration": {"x": x[-512:], "y": y[-512:]}})


def write_clothes_to_train(model: Path, data: Path) -> None:
    """Write network F with its 10,000 rows that judge and all 60,000 to train on, as ``benchmarks.cases`` does."""
    x, y = fashion_mnist("train")
    _write_clothes(model, data, {"train": {"x": x, "y": y}, "calibration": {"x": x[:256]}})


def _write_clothes(model: Path, data: Path, splits: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    module, _ = read_network_f()
    pt2.save(as_network(module), model)
    x, y = fashion_mnist("t10k")
    _save(data, {**splits, "validation": {"x": x, "y": y}})


def write_news(model: Path, data: Path) -> None:
    """Write MiniLM with a head for the eight classes of Reuters R8, and texts of 64 tokens."""
    network, calibration, validation = minilm_classifier(train_rows=1500, calibration_rows=256, limit=500)
    pt2.save(network, model)
    names = [value.name for value in network.signature.inputs]
    splits = {"calibration": calibration, "validation": validation}
    _save(
        data,
        {split: {**dict(zip(names, inputs, strict=True)), "y": labels} for split, (inputs, labels) in splits.items()},
    )


def _save(path: Path, splits: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    arrays = {f"{split}.{name}": values for split, fields in splits.items() for name, values in fields.items()}
    np.savez(path, allow_pickle=False, **arrays)


CASES: dict[str, Write] = {
    "clothes-int8": write_clothes_alone,
    "clothes": write_clothes_to_train,
    "digits": write_digits,
    "patients": write_patients,
    "patients-float": write_patients,
    "pictures": write_pictures,
    "news": write_news,
}


def run(client: winnow.Client, name: str, folder: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Run one case as a job; give the job and its report."""
    model, data = folder / f"{name}.pt2", folder / f"{name}.npz"
    CASES[name](model, data)
    asked = jobs()[name]
    job = client.submit_job(model, data, asked.pop("recipe"), **asked)
    job.wait()
    if (job.failure or {}).get("code", "objective_missed") != "objective_missed":
        sys.exit(f"{name}: {job.failure}")
    return job.raw, job.get_report()


def row(name: str, job: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Write a line of the table: what there was, what there is, and the differences with their intervals."""
    before, after, delta = report["baseline"], report["compressed"], report["delta"]
    metric, drop, speed = report["objective"]["metric"], delta["metric_drop"], delta["latency_ratio"]
    p50 = [side["latency"][0]["p50_ms"] for side in (before, after)]
    seconds = (datetime.fromisoformat(job["ended_at"]) - datetime.fromisoformat(job["started_at"])).total_seconds()
    # A time that other work disturbed is told as such, and not as a figure.
    noisy = any(side["latency"][0]["noisy"] for side in (before, after))
    cells = [
        f"`{name}`",
        metric,
        *(f"{side['metrics'][metric]['value']:.4f}" for side in (before, after)),
        f"{drop['value']:.4f} ({drop['ci95'][0]:.4f} to {drop['ci95'][1]:.4f})",
        "noisy" if noisy else f"{p50[0]:.3f} → {p50[1]:.3f}",
        "noisy" if noisy else f"{speed['value']:.2f} ({speed['ci95'][0]:.2f} to {speed['ci95'][1]:.2f})",
        f"{before['size_bytes'] / 1000:,.0f} → {after['size_bytes'] / 1000:,.0f}",
        f"{delta['size_ratio']:.2f}",
        f"{delta['macs_ratio']:.2f}",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "case", "metric", "before", "after", "drop (95 %)", "p50 ms", "times faster (95 %)", "kB", "smaller", "MACs fewer",
    "seconds",
)  # fmt: skip
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--reports", type=Path, help="a folder to keep each case's report in")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="winnow-recipes-") as temporary:
        folder = Path(temporary)
        with service(folder) as (url, key), winnow.Client(url, key) as client:
            for place, name in enumerate(asked.cases):
                job, report = run(client, name, folder)
                if not place:
                    machine = report["environment"]
                    isa, runtime = ", ".join(machine["isa"]), machine["onnxruntime"]
                    print(f"{datetime.now(UTC):%d %B %Y}, {machine['cpu']}, {isa}, ONNX Runtime {runtime}\n\n{HEADER}")
                print(row(name, job, report), flush=True)
                if asked.reports:
                    asked.reports.mkdir(parents=True, exist_ok=True)
                    (asked.reports / f"{name}.json").write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
