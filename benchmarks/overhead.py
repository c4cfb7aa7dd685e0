"""What the service adds to a job: the same recipe by the engine alone, in a fresh process, and over HTTP.

``python -m benchmarks.overhead`` prints both times in one run. The bound is 1.15 times plus two seconds.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import winnow
from compress import RECIPE
from demo import service
from digits import DigitsNet, save_digits, save_model

from app.domain.job import JobSpec
from app.domain.task import OUTPUT_FOLDER, TASK_FILE, Compress


def by_engine(folder: Path, job: dict[str, Any]) -> float:
    """Run the engine in a process of its own; give the seconds it took."""
    (folder / OUTPUT_FOLDER).mkdir()
    task = Compress(
        model_path="digits.pt2",
        model_format="pt2",
        dataset_path="digits.npz",
        dataset_format="npz",
        job=JobSpec.model_validate(job),
        threads=os.cpu_count() or 1,
    )
    (folder / TASK_FILE).write_text(task.model_dump_json())
    began = time.monotonic()
    with (folder / "messages").open("wb") as messages:
        subprocess.run(
            [sys.executable, "-m", "workers.compression", folder, "--messages-fd", str(messages.fileno())],
            pass_fds=(messages.fileno(),),
            check=True,
        )
    return time.monotonic() - began


def by_service(folder: Path, job: dict[str, Any]) -> float:
    """Run the same as a job; give the seconds from its submission to its end."""
    with service(folder) as (url, key), winnow.Client(url, key) as client:
        model = client.upload_model(folder / "digits.pt2").wait()
        dataset = client.upload_dataset(folder / "digits.npz").wait()
        fields = {name: value for name, value in job.items() if name not in {"model_id", "dataset_id", "recipe"}}
        began = time.monotonic()
        client.submit_job(model, dataset, job["recipe"], **fields).result()
        return time.monotonic() - began


def main() -> None:
    job = {"model_id": "mdl_", "dataset_id": "dat_", "recipe": RECIPE}
    with tempfile.TemporaryDirectory(prefix="winnow-overhead-") as name:
        folder = Path(name)
        save_digits(folder / "digits.npz")
        save_model(DigitsNet().eval(), folder / "digits.pt2")
        alone, job_seconds = by_engine(folder, job), by_service(folder, job)
    print(f"engine alone {alone:.1f} s, as a job {job_seconds:.1f} s")
    print(f"ratio {job_seconds / alone:.3f}; bound 1.15 x + 2 s = {1.15 * alone + 2:.1f} s")


if __name__ == "__main__":
    main()
