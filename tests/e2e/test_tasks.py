"""Jobs of other tasks than classification over HTTP, from the upload to the report."""

import importlib
from pathlib import Path

import pytest

from app.domain.learning_task import LearningTask
from tests.compression.learners import write

EXAMPLES = Path(__file__).parents[2] / "examples"
PRUNE = {"method": "prune", "amount": 0.3}
FINETUNE = {"method": "finetune", "epochs": 2, "learning_rate": 0.01}
QUANTIZE = {"method": "quantize", "scheme": "static"}
JOBS = {
    "regression": ([PRUNE, FINETUNE, QUANTIZE], "r2", 0.3),
    "multilabel": ([PRUNE, FINETUNE | {"class_weights": "balanced"}, QUANTIZE], "macro_f1", 0.3),
}


@pytest.fixture(scope="module")
def uploads(service, tmp_path_factory):
    found = {}
    for task in JOBS:
        folder = tmp_path_factory.mktemp(task)
        write(LearningTask(task), folder, epochs=4)
        found[task] = service.upload("models", folder / "model.pt2"), service.upload("datasets", folder / "data.npz")
    return found


@pytest.mark.long  # every task runs through the engine in tests/compression/tasks
def test_jobs_learn_what_their_data_sets_say(service, uploads):
    jobs = {
        task: service.submit(*uploads[task], recipe=recipe, objective={"max_drop": most})
        for task, (recipe, _, most) in JOBS.items()
    }
    for task, job in jobs.items():
        _, metric, most = JOBS[task]
        ended = service.wait(job)
        assert ended["state"] == "succeeded", ended["failure"]
        report = service.get(f"jobs/{job}/report")
        assert (report["task"], report["objective"]) == (task, {"metric": metric, "max_drop": most, "met": True})
        before, after = (report[side]["metrics"][metric]["value"] for side in ("baseline", "compressed"))
        assert report["delta"]["metric_drop"]["value"] == pytest.approx(before - after)
        assert (ended["summary"][metric], ended["summary"][f"baseline_{metric}"]) == (after, before)
        assert report["delta"]["size_ratio"] > 1
        names = {item["name"] for item in service.get(f"jobs/{job}/artifacts")["items"]}
        assert {"model.onnx", "model.pt2", "report.json", "benchmark.zip"} <= names


DISTILL = {"method": "distill", "epochs": 5, "learning_rate": 0.02, "batch_size": 32}
LONGER = FINETUNE | {"epochs": 25, "batch_size": 16, "class_weights": "balanced"}
SERIES = {
    "countries": ([PRUNE, DISTILL, QUANTIZE], "regression", "r2", 0.2),
    "motions": ([PRUNE, LONGER, QUANTIZE], "multilabel", "macro_f1", 0.05),
}


@pytest.mark.long
def test_real_series_are_learned_and_compressed(service, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    series = importlib.import_module("series")
    jobs = {}
    for name, (recipe, *_, most) in SERIES.items():
        model, data = tmp_path / f"{name}.pt2", tmp_path / f"{name}.npz"
        getattr(series, f"save_{name}")(data)
        getattr(series, f"save_{name}_model")(data, model)
        ids = service.upload("models", model), service.upload("datasets", data)
        jobs[name] = service.submit(*ids, recipe=recipe, objective={"max_drop": most})
    found = {}
    for name, job in jobs.items():
        _, task, metric, most = SERIES[name]
        ended = service.wait(job)
        assert ended["state"] == "succeeded", ended["failure"]
        report = service.get(f"jobs/{job}/report")
        assert (report["task"], report["objective"]) == (task, {"metric": metric, "max_drop": most, "met": True})
        assert report["delta"]["macs_ratio"] > 1.5
        found[name] = report["compressed"]["metrics"][metric]["value"]
    assert found["motions"] > 0.9


def test_a_data_set_shows_what_its_labels_are(service, uploads):
    told = {task: service.get(f"datasets/{ids[1]}") for task, ids in uploads.items()}
    assert {task: item["labels"] for task, item in told.items()} == {
        "regression": {"dtype": "float32", "shape": [], "classes": None, "binary": False, "ignored": False},
        "multilabel": {"dtype": "bool", "shape": [10], "classes": None, "binary": True, "ignored": False},
    }


def test_what_makes_no_sense_for_the_task_is_refused_with_a_pointer(service, uploads):
    def refused(name, recipe, **fields):
        model, dataset = uploads[name]
        body = {"model_id": model, "dataset_id": dataset, "recipe": recipe} | fields
        response = service.client.post("jobs", json=body)
        assert response.status_code == 422, response.text
        problem = response.json()
        return problem["code"], problem["errors"][0]["pointer"]

    accuracy = {"objective": {"metric": "accuracy", "max_drop": 0.01}}
    assert refused("regression", [PRUNE], **accuracy) == ("task_mismatch", "/objective/metric")
    kd = {"method": "distill", "loss": "kd"}
    assert refused("regression", [PRUNE, kd]) == ("task_mismatch", "/recipe/1/loss")
    assert refused("multilabel", [FINETUNE], task="embedding") == ("task_mismatch", "/recipe/0")
    assert refused("multilabel", [PRUNE], task="classification") == ("dataset_mismatch", "/dataset_id")
    assert refused("regression", [PRUNE], task="guessing") == ("validation_failed", "/task")
