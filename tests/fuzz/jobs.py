"""``python -m tests.fuzz.jobs``: draw networks, data sets and recipes, and run each as the engine's process would.

A job may be refused in words, when it is submitted or later; it may never end with an error that is the service's own,
nor with a report that is no JSON.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from app.domain import compatibility
from app.domain.errors import ServiceError, WinnowError
from app.domain.job import JobSpec
from app.domain.task import CHECKPOINTS_FOLDER, OUTPUT_FOLDER, REPORT_FILE, TASK_FILE, Compress
from tests.fuzz.drawing import draw_data, draw_job, draw_network
from tests.fuzz.networks import Column, Several, names
from workers.compression import harness, operator_profile
from workers.compression.__main__ import _run
from workers.compression.admission import admit
from workers.compression.dataset_inspection import inspect_dataset
from workers.compression.inspection import inspect_model

TRIES = 30
"""Jobs that are drawn for a network and a data set until one is not refused."""


class Refused(Exception):
    """What was drawn is refused where a user would hear of it before anything runs."""


def run_one(seed, folder):
    """Draw a job and run it; give how it ended, in a word, and what there is to tell of it."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    drawn = draw_network(rng)
    told = drawn.told()
    try:
        task = _prepare(rng, drawn, folder, told)
    except Refused as refused:
        return str(refused), told
    (folder / TASK_FILE).write_text(task.model_dump_json())
    (folder / CHECKPOINTS_FOLDER).mkdir()
    try:
        _run(folder, lambda _: None, nullcontext)
    except ServiceError:
        raise
    except WinnowError as error:
        return f"ended: {error.code}", told | {"error": error.detail}
    json.loads((folder / OUTPUT_FOLDER / REPORT_FILE).read_text(), parse_constant=_refuse_constant)
    return "succeeded", told


def _prepare(rng, drawn, folder, told):
    """Write the files, look into them and draw a job that fits them."""
    format_ = told["format"] = rng.choice(("pt2", "pt2", "onnx"))
    path = folder / f"model.{format_}"
    _export(rng, drawn, path)
    model = _inspect(inspect_model, path, format_)
    content = draw_data(rng, drawn, [spec.name for spec in model.signature.inputs])
    told["data"] = {name: [str(value.dtype), *value.shape] for name, value in content.items()}
    np.savez(folder / "data.npz", **content)
    data = _inspect(inspect_dataset, folder / "data.npz", "npz")
    for _ in range(TRIES):
        told["job"] = draw_job(rng, names(drawn.net) or ["x"])
        try:
            job = JobSpec.model_validate(told["job"])
            compatibility.check(job, model, data)
        except (ValidationError, WinnowError):
            continue
        return Compress(
            model_path=path.name,
            model_format=format_,
            model_way=model.way,
            dataset_path="data.npz",
            dataset_format="npz",
            job=job,
            threads=1,
            service_version="fuzz",
        )
    raise Refused("no job fits")


def _export(rng, drawn, path):
    """Export a network with a free batch, mostly."""
    net, rows = drawn.net.eval(), tuple(torch.from_numpy(draw(3)) for draw in drawn.inputs.values())
    shapes = tuple({0: torch.export.Dim("batch")} for _ in rows) if rng.random() < 0.85 else None
    if shapes is not None and isinstance(net, Several | Column):
        shapes = {"given": shapes}
    try:
        exported = torch.export.export(net, rows, dynamic_shapes=shapes)
        if path.suffix == ".onnx":
            torch.onnx.export(
                exported, (), path, dynamo=True, verbose=False, external_data=False, input_names=list(drawn.inputs)
            )
        else:
            torch.export.save(exported, path)
    except Exception as error:
        raise Refused("not exported") from error


def _inspect(look, path, format_):
    try:
        admit(path, format_)
        return look(path, format_)
    except ServiceError:
        raise
    except WinnowError as error:
        raise Refused(f"{format_} refused: {error.code}") from error


def _refuse_constant(name):
    raise ValueError(f"the report holds {name}")


def fuzz(seeds, show):
    """Run the jobs of these seeds; give how they ended, by count, and the seeds of those that met a fault."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    # What is looked for does not hang on how well files are timed.
    harness.MAX_PAIRS, harness.TRIES, operator_profile.SECONDS, operator_profile.TRIES = 20, 1, 0.1, 1
    counts, faults = Counter(), []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            try:
                ended, told = run_one(seed, Path(folder))
            except Exception:  # noqa: BLE001 - this is what is looked for
                ended, told = "FAULT", {"traceback": traceback.format_exc()}
                faults.append(seed)
        counts[ended] += 1
        show(seed, ended, told)
    return counts, faults


def main():
    parser = argparse.ArgumentParser(prog="tests.fuzz.jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--show", action="store_true", help="tell of each what was drawn")
    asked = parser.parse_args()

    def show(seed, ended, told):
        print(seed, ended, told.get("error", ""), flush=True)
        if asked.show:
            print(json.dumps(told, indent=1))
        print(told.get("traceback", "")[-4000:], end="")

    counts, faults = fuzz(range(asked.seed, asked.seed + asked.jobs), show)
    for ended, count in counts.most_common():
        print(f"{count:5} {ended}")
    print("seeds that met a fault:", faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
