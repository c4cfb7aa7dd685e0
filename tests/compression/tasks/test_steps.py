"""Every step that chooses or trains goes by the task: what it measures, what it learns from, what it holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.domain.errors import CheckFailed
from app.domain.job import Objective
from app.domain.learning_task import METRICS, LearningTask
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec
from app.domain.steps.training import FinetuneSpec
from tests.compression.learners import LEARNERS, make_contexts
from workers.compression import judging
from workers.compression.checks import check_files, compare_outputs
from workers.compression.evaluation import value_of
from workers.compression.formats import onnx, pt2
from workers.compression.pruning import prune
from workers.compression.pruning.sensitivity import measure
from workers.compression.quantization import quantize
from workers.compression.quantization.gate import Judge
from workers.compression.tasks import TASKS
from workers.compression.training import finetune

LABELLED = [task for task in LEARNERS if task is not LearningTask.EMBEDDING]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory, epochs=6)


@pytest.mark.parametrize("task", LEARNERS)
def test_an_analysis_measures_the_metric_of_the_task(contexts, task):
    context = contexts[task]
    table = measure(context.baseline, PruneSpec(method="prune", analyze=True, budget_seconds=60), context)
    rows = np.arange(context.data.rows("calibration"))
    wanted = judging.truth(context, "calibration", rows)
    figure, loss = judging.score(context.baseline, context, "calibration", rows, wanted)
    assert (table.metric, table.split) == (METRICS[task][0], "calibration")
    assert (table.value, table.loss) == pytest.approx((figure, loss), abs=1e-5)
    most = max(found.drop for group in table.groups for found in group.measurements)
    assert most > 0.01
    # What it found is taken by the prune that follows, whatever the metric's range.
    spec = PruneSpec(method="prune", amount=0.2, sensitivity="job")
    result = prune.run(context.baseline, spec, replace(context, sensitivities={"job": table}))
    assert result.details["removed_channels"] > 0


@pytest.mark.parametrize("task", LABELLED)
def test_gradients_are_of_the_tasks_own_loss(contexts, task):
    context = contexts[task]
    spec = PruneSpec(method="prune", criterion="taylor", amount=0.3, rounds=2, recovery_epochs=1)
    result = prune.run(context.baseline, spec, context)
    assert result.details["removed_channels"] > 0
    metric = METRICS[task][0]
    assert len(result.details["rounds"][0]["recovery"]["epochs"]) == 1
    assert metric in result.details["rounds"][0]["recovery"]["epochs"][0]


@pytest.mark.parametrize("task", LABELLED)
def test_quantization_aware_training_learns_the_task(contexts, task):
    context = contexts[task]
    spec = QuantizeSpec(method="quantize", scheme="qat", epochs=1)
    result = quantize.run(context.baseline, spec, context)
    rows = np.arange(context.data.rows("validation"))
    wanted = judging.truth(context, "validation", rows)
    before, after = (
        judging.score(network, context, "validation", rows, wanted)[0] for network in (context.baseline, result.network)
    )
    assert after > before - 0.15


@pytest.mark.parametrize("task", LEARNERS)
def test_layers_go_back_to_float_for_the_metric_of_the_objective(contexts, task):
    for metric in {METRICS[task][0], METRICS[task][-1]}:
        context = replace(contexts[task], objective=Objective(metric=metric, max_drop=1.0))
        gate = quantize.run(context.baseline, QuantizeSpec(method="quantize", samples=64), context).details["gate"]
        assert (gate["metric"], gate["held"], gate["evaluations"]) == (metric, True, 1)
        if task is LearningTask.EMBEDDING:
            assert 0 < gate["drop"] < 0.2


@pytest.mark.parametrize("task", LEARNERS)
def test_without_labels_the_float_network_says_what_is_right(contexts, task):
    context = contexts[task]
    inputs, _ = context.data.gather("train", np.arange(64))
    with torch.no_grad():
        reference = context.baseline.module(*inputs).numpy()
    noisy = reference + 0.3 * reference.std() * np.random.default_rng(0).standard_normal(reference.shape)
    judge = Judge(reference, None, {frozenset(): reference, frozenset("a"): noisy}.__getitem__, 9, TASKS[task])
    assert judge.drop(frozenset()) == pytest.approx(0, abs=1e-9)
    own = TASKS[task].decide(reference)
    lost = value_of(TASKS[task], METRICS[task][0], reference, own) - value_of(TASKS[task], METRICS[task][0], noisy, own)
    assert judge.drop(frozenset("a")) == pytest.approx(lost)
    assert lost > 0


def test_rare_classes_are_found_more_often_where_they_weigh_more(contexts):
    context = contexts[LearningTask.MULTILABEL]

    def chosen(**given):
        spec = FinetuneSpec(method="finetune", epochs=1, **given)
        network = finetune.run(context.baseline, spec, context).network
        inputs, _ = context.data.gather("validation", np.arange(300))
        with torch.no_grad():
            return float((network.module(*inputs) > 0).float().mean())

    assert chosen(class_weights=[0.1] * 10) < chosen() < chosen(class_weights=[10.0] * 10)


@pytest.mark.parametrize("task", [LearningTask.REGRESSION, LearningTask.EMBEDDING])
def test_files_that_decide_nothing_agree_by_what_their_outputs_differ(contexts, task, tmp_path):
    context = contexts[task]
    onnx.save(context.baseline, tmp_path / "model.onnx")
    pt2.save(context.baseline, tmp_path / "model.pt2")
    found = check_files(tmp_path / "model.onnx", tmp_path / "model.pt2", context.data, threads=1)
    assert (found.equal_predictions, found.widest_tie) == (None, None)
    assert found.relative_difference < 1e-5
    other = context.baseline.clone()
    with torch.no_grad():
        for value in other.module.parameters():
            value.mul_(1.1)
    pt2.save(other, tmp_path / "other.pt2")
    with pytest.raises(CheckFailed, match=r"differ by 0\.\d+ of their outputs"):
        check_files(tmp_path / "model.onnx", tmp_path / "other.pt2", context.data, threads=1)


def test_files_of_integers_may_be_as_far_apart_as_ties_that_fall_either_way_take_them(contexts, tmp_path):
    context = contexts[LearningTask.EMBEDDING]
    spec = QuantizeSpec(method="quantize", scheme="dynamic")

    def quantized(factor):
        network = context.baseline.clone()
        with torch.no_grad():
            for value in list(network.module.parameters())[-2:]:
                value.mul_(factor)
        return quantize.run(network, spec, context).network

    onnx.save(quantized(1.0), tmp_path / "model.onnx")
    pt2.save(quantized(1.1), tmp_path / "near.pt2")
    pt2.save(quantized(1.4), tmp_path / "far.pt2")
    found = check_files(tmp_path / "model.onnx", tmp_path / "near.pt2", context.data, threads=1)
    assert 0.05 < found.relative_difference < 0.15
    with pytest.raises(CheckFailed, match=r"differ by 0\.\d+ of their outputs"):
        check_files(tmp_path / "model.onnx", tmp_path / "far.pt2", context.data, threads=1)


def test_files_are_compared_label_by_label_and_where_positions_are_shown():
    ours = np.array([[1.0, -1.0, 0.02], [2.0, 3.0, -4.0]], np.float32)
    theirs = np.array([[1.0, -1.0, -0.01], [2.0, 3.0, -4.0]], np.float32)
    found = compare_outputs(ours, theirs, TASKS[LearningTask.MULTILABEL])
    assert found.equal_predictions == pytest.approx(5 / 6)
    assert found.widest_tie == pytest.approx(0.02 / ours.std(), rel=1e-5)
    ours = np.array([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 1.0], [5.0, 0.0]]], np.float32)
    theirs = ours.copy()
    theirs[1, 1] = (0.0, 5.0)
    shown = np.array([[True, True], [True, False]])
    task = TASKS[LearningTask.TOKEN_CLASSIFICATION]
    assert compare_outputs(ours, theirs, task).equal_predictions == 0.75
    assert compare_outputs(ours, theirs, task, shown).equal_predictions == 1
