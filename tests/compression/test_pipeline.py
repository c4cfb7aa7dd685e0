import io
import json
import os
import zipfile

import numpy as np
import onnxruntime
import pytest
import torch
import zstandard
from pydantic import TypeAdapter

from app.domain.errors import ObjectiveMissed, RecipeOrder
from app.domain.job import EventType, LatencySpec, Objective
from app.domain.recipe import Recipe
from app.domain.report import Report
from workers.compression.formats import pt2
from workers.compression.inference import compute_logits
from workers.compression.pipeline import Output, compress, require_objective

RECIPE = [
    {"method": "prune", "amount": 0.3},
    {"method": "distill", "epochs": 4, "learning_rate": 0.05},
    {"method": "quantize"},
]


def run(network, data, folder, recipe):
    folder.mkdir(parents=True)
    events, artifacts = [], []
    report = compress(
        network,
        TypeAdapter(Recipe).validate_python(recipe),
        data,
        objective=Objective(max_drop=1.0),
        latency=LatencySpec(batch_sizes=(1, 4), threads=(1, 256)),
        seed=0,
        device=torch.device("cpu"),
        output=Output(folder, folder.parent / "checkpoints", events.append, artifacts.append),
        service_version="test",
    )
    return report, events, artifacts


@pytest.fixture(scope="module")
def finished(digits_network, digits_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "out"
    before = {name: value.clone() for name, value in digits_network.module.state_dict().items()}
    result = run(digits_network, digits_data, folder, RECIPE)
    assert all(torch.equal(value, before[name]) for name, value in digits_network.module.state_dict().items())
    return (folder, *result)


def test_the_result_is_smaller_and_still_knows_the_digits(finished, digits_data):
    folder, report, _, _ = finished
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (x,), labels = digits_data.gather("validation", np.arange(360))
    found = session.run(None, {"x": x.numpy()})[0].argmax(axis=1)
    assert (found == labels.numpy()).mean() == pytest.approx(report.compressed.metrics["accuracy"].value)
    assert report.compressed.metrics["accuracy"].value > 0.85
    assert report.compressed.size_bytes == (folder / "model.onnx").stat().st_size < report.baseline.size_bytes
    assert report.compressed.parameters < report.baseline.parameters
    assert report.compressed.macs < report.baseline.macs


def test_the_pt2_is_the_same_network(finished, digits_data):
    folder, report, _, _ = finished
    network = pt2.load(folder / "model.pt2")
    assert network.quantized
    logits = compute_logits(network, digits_data, "validation", np.arange(360), torch.device("cpu"))
    accuracy = (logits.argmax(1).numpy() == digits_data.labels("validation")).mean()
    assert accuracy == pytest.approx(report.compressed.metrics["accuracy"].value, abs=0.02)


def test_the_report_tells_every_step_layer_and_row(finished):
    folder, report, _, _ = finished
    assert Report.model_validate_json((folder / "report.json").read_text()) == report
    assert [step.method for step in report.steps] == ["prune", "distill", "quantize"]
    pruned = report.steps[0]
    assert pruned.after["parameters"] < pruned.before["parameters"]
    assert report.recipe[1].temperature == 4.0
    assert report.recipe[0].round_to == pruned.spec["round_to"] == pruned.details["round_to"] in {1, 2, 4, 8}
    assert (report.data.train, report.data.calibration, report.data.validation) == (1437, 256, 360)
    assert {layer.name: layer.bits for layer in report.layers}["conv2"] == 8
    assert len(report.classes) == 10
    assert report.environment.service == "test"


def test_latency_is_measured_at_each_batch_size_with_each_number_of_threads(finished):
    _, report, _, _ = finished
    cores = len(os.sched_getaffinity(0))
    for side in (report.baseline, report.compressed):
        assert [(found.batch_size, found.threads) for found in side.latency] == [
            (1, 1), (4, 1), (1, cores), (4, cores),
        ]  # fmt: skip
    assert f"This worker has {cores} cores: 256 threads were measured as so many." in report.verdict.reasons


def test_files_are_announced_once_complete_and_a_candidate_once_trained(finished, digits_data):
    folder, report, _, artifacts = finished
    assert report.timed_rows == {"x": tuple(digits_data.splits["validation"].inputs[0].shape[1:])}
    assert [(artifact.name, artifact.kind) for artifact in artifacts] == [
        ("candidate.onnx", "checkpoint"),
        ("model.onnx", "model"),
        ("model.pt2", "model"),
        ("report.json", "report"),
        ("benchmark.zip", "benchmark"),
        ("report.html", "report"),
        ("model-card.md", "report"),
    ]
    assert {path.name for path in folder.iterdir()} == {artifact.name for artifact in artifacts}
    with zipfile.ZipFile(folder / "benchmark.zip") as bundle:
        inputs = np.load(io.BytesIO(bundle.read("inputs.npz")))
        assert np.array_equal(inputs["x"], digits_data.gather("validation", np.arange(4))[0][0].numpy())
        assert bundle.read("model.onnx") == (folder / "model.onnx").read_bytes()
        assert json.loads(bundle.read("environment.json"))["service"] == "test"


def test_zeros_leave_packed_copies_and_no_claim_of_speed(digits_network, digits_data, tmp_path):
    recipe = [{"method": "prune", "granularity": "weight", "amount": 0.9}]
    report, _, artifacts = run(digits_network, digits_data, tmp_path / "out", recipe)
    copies = {artifact.name: artifact.format for artifact in artifacts if artifact.name.endswith(".zst")}
    assert copies == {"model.onnx.zst": "onnx.zst", "model.pt2.zst": "pt2.zst"}
    for name in copies:
        packed, plain = ((tmp_path / "out" / each).read_bytes() for each in (name, name.removesuffix(".zst")))
        assert zstandard.ZstdDecompressor().decompress(packed) == plain
        assert len(packed) < len(plain)
    side = report.compressed
    assert side.packed_bytes == (tmp_path / "out" / "model.onnx.zst").stat().st_size
    assert (side.parameters, side.macs) == (report.baseline.parameters, report.baseline.macs)
    assert side.nonzero_parameters < 0.15 * side.parameters
    ratio = report.baseline.packed_bytes / side.packed_bytes
    assert f"then it is {ratio:.2f} times smaller than the baseline's" in report.verdict.reasons[-1]
    assert ratio > 2


def test_stages_come_in_order_and_progress_never_falls(finished):
    _, _, events, _ = finished
    stages = [event.data["stage"] for event in events if event.type == EventType.STAGE]
    assert stages == [
        "baseline",
        "pruning",
        "distilling",
        "quantizing",
        "exporting",
        "evaluating",
        "profiling",
        "packaging",
    ]
    fractions = [event.data["fraction"] for event in events if event.type == EventType.PROGRESS]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)


def test_the_time_left_is_told_once_something_has_trained(finished):
    _, report, events, _ = finished
    told, epochs, stages = [], 0, []
    for event in events:
        if event.type == EventType.STAGE:
            stages.append(event.data["stage"])
        epochs += event.type == EventType.METRIC and event.data["name"] == "loss"
        if event.type == EventType.PROGRESS:
            assert set(event.data) <= {"fraction", "message", "eta_seconds"}
            told.append((stages[-1], epochs, event.data.get("eta_seconds")))
    assert all(seconds is None for stage, _, seconds in told if stage in {"baseline", "pruning"})
    behind = [seconds for stage, epochs, seconds in told if epochs and stage != "distilling"]
    assert behind
    assert all(seconds is not None for seconds in behind)
    # Profiling alone takes a second at least, and nothing is left behind packaging.
    assert behind[0] > 1
    assert behind[-1] == 0
    curves = report.steps[1].details["epochs"]
    assert set(curves[0]) == {"epoch", "loss", "learning_rate", "accuracy", "held_out_loss", "seconds"}
    assert report.recipe[1].precision == "float32"


def test_a_missed_objective_is_told_with_its_figures(finished):
    report = finished[1]
    require_objective(report)
    missed = report.model_copy(
        update={"objective": report.objective.model_copy(update={"met": False, "max_drop": 0.0})}
    )
    with pytest.raises(ObjectiveMissed, match=f"{report.delta.metric_drop.value:.4f}"):
        require_objective(missed)


def test_the_seed_gives_the_same_bytes(digits_network, digits_data, tmp_path):
    recipe = [{"method": "finetune", "epochs": 1}]
    for name in ("one", "two"):
        run(digits_network, digits_data, tmp_path / name, recipe)
    for file in ("model.onnx", "model.pt2"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("step", "train"),
    [
        ({"criterion": "taylor"}, 1024),
        ({"rounds": 2, "recovery_epochs": 1}, 1437),
    ],
)
def test_train_rows_are_counted_by_what_read_them(digits_network, digits_data, tmp_path, step, train):
    report, events, _ = run(digits_network, digits_data, tmp_path / "out", [{"method": "prune", "amount": 0.3} | step])
    assert report.data.train == train
    assert Report.model_validate_json((tmp_path / "out" / "report.json").read_text()).data.train == train
    # A step counts 2 and each epoch 1, of all the parts with the 8 of the others.
    done = [event.data["fraction"] for event in events if event.type == EventType.PROGRESS]
    whole = 10 + len(report.steps[0].details["rounds"]) - 1
    assert any(fraction == pytest.approx((whole - 7) / whole, abs=1e-4) for fraction in done)


def test_training_after_quantizing_is_refused(digits_network, digits_data, tmp_path):
    finetune = {"method": "finetune", "epochs": 1}
    recipe = [finetune, {"method": "quantize"}, finetune]
    with pytest.raises(RecipeOrder):
        run(digits_network, digits_data, tmp_path / "out", recipe)
    assert (tmp_path / "out" / "candidate.onnx").stat().st_size > 0
