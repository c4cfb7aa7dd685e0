"""Compress a network through the service: upload, submit, follow, compare, download.

``python examples/compress.py model.pt2 data.npz`` with the service's address in ``WINNOW_URL``
and a key in ``WINNOW_KEY``. ``model.onnx`` is written beside the model as ``model.small.onnx``.

``winnow compress`` does the same from a shell, with a recipe from a file, and fetches all that the job leaves.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import winnow
from winnow.following import follow
from winnow.table import table

RECIPE = [
    {"method": "prune", "granularity": "channel", "criterion": "l2", "amount": 0.6, "round_to": 8},
    {"method": "distill", "teacher": "baseline", "epochs": 8, "temperature": 4.0, "alpha": 0.7, "learning_rate": 0.02},
    {"method": "quantize", "scheme": "static", "observer": "histogram", "samples": 256},
]


def compress(
    client: winnow.Client,
    model: Path,
    data: Path,
    result: Path,
    recipe: Sequence[Mapping[str, Any]] = RECIPE,
    max_drop: float = 0.01,
) -> None:
    """Run one job to its end and fetch the network; the objective is about the task's own metric."""
    name = f"{model.stem}: {', '.join(step['method'] for step in recipe)}"
    job = client.submit_job(model, data, recipe, name=name, max_drop=max_drop)
    status = follow(job)
    if status.success or (job.failure or {}).get("code") == "objective_missed":
        print(table(job.get_report()))
    job.result()
    job.download_target_model(result)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    model, data = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        with winnow.Client() as client:
            compress(client, model, data, model.with_suffix(".small.onnx"))
    except winnow.Error as error:
        sys.exit(str(error))
