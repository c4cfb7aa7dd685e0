"""Every task from the uploaded network to the report, by all steps that it gives something to learn from."""

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, r2_score

from app.domain.job import LatencySpec, Objective
from app.domain.learning_task import IGNORED, METRICS, LearningTask
from app.domain.recipe import Recipe
from app.domain.report import Report
from tests.compression.learners import Table, learner, patients
from workers.compression.datasets import load_dataset
from workers.compression.evaluation import predict
from workers.compression.formats import pt2
from workers.compression.pipeline import Output, compress

PRUNE = {"method": "prune", "amount": 0.2}
FINETUNE = {"method": "finetune", "epochs": 3, "learning_rate": 0.01}
DISTILL = {"method": "distill", "epochs": 3, "learning_rate": 0.05}
STATIC, DYNAMIC = {"method": "quantize"}, {"method": "quantize", "scheme": "dynamic"}
# What each must keep at least, of its first metric; all were trained to far more than chance.
JOBS = {
    LearningTask.REGRESSION: ([PRUNE, FINETUNE, STATIC], 0.2, {"r2", "mse", "mae"}),
    LearningTask.MULTILABEL: (
        [PRUNE, FINETUNE | {"class_weights": "balanced"}, STATIC],
        0.8,
        {"macro_f1", "micro_f1", "subset_accuracy"},
    ),
    LearningTask.EMBEDDING: ([PRUNE | {"amount": 0.1}, STATIC], 0.7, {"cosine", "spearman"}),
    LearningTask.TOKEN_CLASSIFICATION: (
        [PRUNE, DISTILL | {"class_weights": [1.0, 1.0, 2.0]}, FINETUNE, DYNAMIC],
        0.9,
        {"accuracy", "macro_f1", "log_loss", "calibration_error"},
    ),
    LearningTask.LANGUAGE_MODELLING: ([PRUNE, DISTILL, FINETUNE, STATIC], 0.6, {"token_accuracy", "perplexity"}),
    LearningTask.SEGMENTATION: ([PRUNE, DISTILL, STATIC], 0.5, {"mean_iou", "pixel_accuracy"}),
}

BY_CLASS = {LearningTask.TOKEN_CLASSIFICATION: "accuracy", LearningTask.SEGMENTATION: "pixel_accuracy"}
"""What the figures of classes add up to."""


@pytest.fixture(scope="module", params=JOBS, ids=str)
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    network, data = learner(request.param, folder)
    events = []
    report = compress(
        network,
        TypeAdapter(Recipe).validate_python(JOBS[request.param][0]),
        data,
        objective=Objective(max_drop=1.0),
        latency=LatencySpec(),
        seed=0,
        device=torch.device("cpu"),
        output=Output(folder, folder / "checkpoints", events.append, lambda _: None),
        service_version="test",
    )
    return request.param, report, data, folder, events


def test_a_job_of_every_task_is_measured_by_its_own_figures(finished):
    task, report, data, folder, events = finished
    _, least, names = JOBS[task]
    headline = METRICS[task][0]
    assert (data.task, report.task, report.objective.metric) == (task, task, headline)
    assert set(report.compressed.metrics) == set(report.baseline.metrics) == set(report.delta.metric_drops) == names
    assert report.compressed.metrics[headline].value > least
    assert report.delta.metric_drop == report.delta.metric_drops[headline]
    for name, found in report.compressed.metrics.items():
        assert found.samples == data.rows("validation")
        assert found.ci95[0] <= found.value <= found.ci95[1] or name == "calibration_error"
    drop = report.delta.metric_drop
    before, after = (side.metrics[headline].value for side in (report.baseline, report.compressed))
    assert drop.value == pytest.approx(before - after)
    assert drop.ci95[0] <= drop.value <= drop.ci95[1]
    if task in BY_CLASS:
        labels = data.labels("validation")
        assert sum(row.samples for row in report.classes) == int((labels != IGNORED).sum())
        right = sum(row.samples * row.compressed for row in report.classes) / sum(row.samples for row in report.classes)
        assert right == pytest.approx(report.compressed.metrics[BY_CLASS[task]].value)
    else:
        assert not report.classes
    assert 0.7 < report.delta.agreement <= 1
    told = {event.data["name"] for event in events if event.type == "metric"}
    assert {f"baseline_{headline}", f"compressed_{headline}"} <= told
    summary = report.headline()
    assert (summary[headline], summary[f"baseline_{headline}"]) == (after, before)
    assert Report.model_validate(json.loads((folder / "report.json").read_text())) == report


class Flat(Table):
    """Gives one number a row without a dimension of its own."""

    def forward(self, x):
        return super().forward(x)[:, 0]


def test_a_regression_without_a_dimension_for_its_number_goes_all_the_way(tmp_path):
    content = patients()
    np.savez(tmp_path / "data.npz", **content)
    x, y = torch.from_numpy(content["train.x"]), torch.from_numpy(content["train.y"])
    torch.manual_seed(0)
    net = Flat()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    exported = torch.export.export(net.eval(), (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(exported, tmp_path / "model.pt2")
    network = pt2.load(tmp_path / "model.pt2")
    data = load_dataset(tmp_path / "data.npz", "npz", network.signature, seed=0)
    report = compress(
        network,
        TypeAdapter(Recipe).validate_python([DISTILL | {"student": {"width": 0.5}, "alpha": 0.5}, FINETUNE, STATIC]),
        data,
        objective=Objective(max_drop=1.0),
        latency=LatencySpec(),
        seed=0,
        device=torch.device("cpu"),
        output=Output(tmp_path, tmp_path / "checkpoints", lambda _: None, lambda _: None),
        service_version="test",
    )
    outputs = predict(tmp_path / "model.onnx", data, "validation", threads=1)
    assert outputs.shape == (100,)
    assert report.compressed.metrics["r2"].value == pytest.approx(r2_score(data.labels("validation"), outputs))
    assert report.compressed.metrics["r2"].value > 0.2


def test_figures_are_those_of_the_file_as_a_library_computes_them(finished):
    task, report, data, folder, _ = finished
    outputs = predict(folder / "model.onnx", data, "validation", threads=1)
    found = {name: value.value for name, value in report.compressed.metrics.items()}
    labels = data.labels("validation") if data.labelled("validation") else None
    match task:
        case LearningTask.REGRESSION:
            assert found["r2"] == pytest.approx(r2_score(labels, outputs[:, 0]))
        case LearningTask.MULTILABEL:
            assert found["macro_f1"] == pytest.approx(f1_score(labels, outputs > 0, average="macro"))
        case LearningTask.EMBEDDING:
            assert report.baseline.metrics["cosine"].value == pytest.approx(1)
            assert report.baseline.metrics["spearman"].value == pytest.approx(1)
        case LearningTask.SEGMENTATION:
            shown, chosen = labels != -100, outputs.argmax(1)
            assert found["pixel_accuracy"] == pytest.approx(accuracy_score(labels[shown], chosen[shown]))
            assert found["mean_iou"] == pytest.approx(jaccard_score(labels[shown], chosen[shown], average="macro"))
        case _:
            shown = labels != -100
            mask = data.gather("validation", np.arange(len(labels)))[0][1].numpy()
            assert not shown[mask == 0].any()
            expected = accuracy_score(labels[shown], outputs.argmax(-1)[shown])
            assert found[METRICS[task][0]] == pytest.approx(expected)
