"""What each task teaches, against numbers worked by hand and torch's own losses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnxruntime import InferenceSession
from torch import nn
from torch.export import Dim, export

from app.domain.learning_task import LearningTask
from app.domain.steps.distill import DistillSpec
from app.domain.steps.training import FinetuneSpec
from tests.compression.learners import LEARNERS, make_contexts
from workers.compression import evaluation, judging
from workers.compression.datasets import Dataset, Split
from workers.compression.distillation.distill import imitate
from workers.compression.formats import onnx
from workers.compression.inference import dynamic_sizes, held_at_once, rows_at_once
from workers.compression.lifting import lift
from workers.compression.tasks import TASKS
from workers.compression.training.criterion import Batch
from workers.compression.training.weights import class_weights


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_weights_of_classes_make_a_weighted_mean():
    output, labels, weights = draw(4, 3), torch.tensor([0, 1, 2, 2]), torch.tensor([1.0, 2.0, 0.5])
    each = -F.log_softmax(output, 1)[torch.arange(4), labels]
    expected = (each * weights[labels]).sum() / weights[labels].sum()
    assert TASKS[LearningTask.CLASSIFICATION].loss(output, labels, weights) == pytest.approx(expected)
    positions = torch.tensor([[0, 1, -100], [-100, 2, 2]])
    spread = torch.zeros(2, 3, 3)
    spread[positions != -100] = output
    assert TASKS[LearningTask.TOKEN_CLASSIFICATION].loss(spread, positions, weights) == pytest.approx(expected)


@pytest.mark.parametrize("task", [LearningTask.CLASSIFICATION, LearningTask.TOKEN_CLASSIFICATION])
def test_rows_of_classes_without_weight_teach_nothing(task):
    output, labels = draw(4, 3).requires_grad_(), torch.tensor([2, 2, 2, 2])
    given, wanted = (output, labels) if task is LearningTask.CLASSIFICATION else (output[None], labels[None])
    loss = TASKS[task].loss(given, wanted, torch.tensor([1.0, 2.0, 0.0]), 0.1)
    loss.backward()
    assert (loss.item(), output.grad.abs().sum().item()) == (0, 0)


def test_one_number_a_row_needs_no_dimension_of_its_own():
    task, output, labels = TASKS[LearningTask.REGRESSION], draw(4), torch.ones(4, 1)
    counted = task.counted(output, labels)
    assert [tuple(value.shape) for value in counted] == [(4, 1), (4, 1)]
    assert task.loss(output, labels) == pytest.approx(float((output - 1).square().mean()))


def test_smoothing_gives_all_classes_a_share():
    # Szegedy 2016, section 7: q'(k) = (1 − ε)·δ + ε/K.
    output, labels = draw(4, 3), torch.tensor([0, 1, 2, 2])
    wanted = 0.9 * F.one_hot(labels, 3) + 0.1 / 3
    expected = -(wanted * F.log_softmax(output, 1)).sum(1).mean()
    assert TASKS[LearningTask.CLASSIFICATION].loss(output, labels, smoothing=0.1) == pytest.approx(expected)
    hot = torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 1, 0], [1, 1, 1]])
    share = output.sigmoid()
    soft = 0.9 * hot + 0.05
    expected = -(soft * share.log() + (1 - soft) * (1 - share).log()).mean()
    assert TASKS[LearningTask.MULTILABEL].loss(output, hot, smoothing=0.1) == pytest.approx(expected)


def test_weights_of_labels_weigh_the_ones():
    output, hot, weights = draw(4, 3), torch.eye(4)[:, :3], torch.tensor([1.0, 2.0, 0.5])
    share = output.sigmoid()
    expected = -(weights * hot * share.log() + (1 - hot) * (1 - share).log()).mean()
    assert TASKS[LearningTask.MULTILABEL].loss(output, hot, weights) == pytest.approx(expected)


def test_a_batch_without_a_label_teaches_nothing():
    output = draw(2, 3, 4).requires_grad_()
    loss = TASKS[LearningTask.TOKEN_CLASSIFICATION].loss(output, torch.full((2, 3), -100))
    loss.backward()
    assert loss == 0
    assert not output.grad.any()


def test_numbers_fit_with_and_without_a_dimension_of_their_own():
    output, labels = draw(5, 1), torch.arange(5.0)
    expected = (output[:, 0] - labels).square().mean()
    task = TASKS[LearningTask.REGRESSION]
    assert task.loss(output, labels) == pytest.approx(expected)
    assert task.loss(output[:, 0], labels[:, None]) == pytest.approx(expected)


def test_an_embedding_turns_towards_what_stands_for_its_label():
    output, labels = torch.tensor([[2.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 0]])
    assert TASKS[LearningTask.EMBEDDING].loss(output, labels) == pytest.approx(0.5)


def test_balance_makes_up_for_what_is_rare():
    # King and Zeng 2001: n / (C·n_c).
    labels = np.array([0] * 6 + [1] * 3 + [3])
    balanced = pytest.approx([10 / 24, 10 / 12, 1, 10 / 4])
    assert TASKS[LearningTask.CLASSIFICATION].balance(labels, 4) == balanced
    positions = np.array([[0] * 6 + [-100], [1] * 3 + [3] + [-100] * 3])
    assert TASKS[LearningTask.TOKEN_CLASSIFICATION].balance(positions, 4) == balanced
    hot = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1]])
    assert TASKS[LearningTask.MULTILABEL].balance(hot, 3) == pytest.approx([1 / 3, 1, 1])


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory, epochs=0)


@pytest.mark.parametrize("task", LEARNERS)
def test_rows_are_scored_in_batches_as_they_would_be_at_once(contexts, task):
    context, rows = contexts[task], np.arange(300)
    wanted = judging.truth(context, "train", rows)
    figure, loss = judging.score(context.baseline, context, "train", rows, wanted)
    with torch.no_grad():
        outputs = context.baseline.module(*context.data.gather("train", rows)[0])
    expected = evaluation.value_of(context.task, context.task.metric, outputs.numpy(), wanted)
    assert figure == pytest.approx(expected, abs=1e-6)
    assert loss == pytest.approx(float(context.task.loss(outputs, torch.from_numpy(wanted))), abs=1e-5)
    if task is LearningTask.EMBEDDING:
        assert (figure, loss) == pytest.approx((1, 0), abs=1e-6)


def test_a_step_weighs_classes_as_it_is_asked_to(contexts):
    context = contexts[LearningTask.MULTILABEL]
    given = FinetuneSpec(method="finetune", class_weights=[1.0, 2.0] * 5)
    assert class_weights(given, context).tolist() == [1.0, 2.0] * 5
    assert class_weights(FinetuneSpec(method="finetune"), context) is None
    labels = context.data.labels("train") > 0
    found = class_weights(FinetuneSpec(method="finetune", class_weights="balanced"), context)
    assert found.numpy() == pytest.approx((~labels).sum(0) / labels.sum(0))


def test_a_teacher_is_imitated_where_positions_count(contexts):
    context = contexts[LearningTask.TOKEN_CLASSIFICATION]
    spec = DistillSpec(method="distill", class_weights=[1.0, 1.0, 5.0])
    rows = np.arange(8)
    inputs, labels = context.data.gather("train", rows)
    output, batch = draw(8, 12, 3), Batch(inputs, labels, rows)
    criterion = imitate(spec, context)
    loss = criterion.loss(output, batch)
    assert torch.isfinite(loss)
    moved = output + 100 * (labels == -100)[..., None] * draw(8, 12, 3)
    assert criterion.loss(moved, batch) == loss
    assert imitate(DistillSpec(method="distill"), context).loss(output, batch) != loss
    hidden = Batch(inputs, torch.full_like(labels, -100), rows)
    assert criterion.loss(output, hidden) == 0


def test_outputs_of_a_row_bound_how_many_rows_are_held_at_once():
    assert rows_at_once(("batch", 10), 256) == 256
    assert rows_at_once(("batch", 128, 30_000), 256) == 2**27 // (128 * 30_000) == 34
    assert rows_at_once(("batch", "length", 2**28), 256) == 1
    assert rows_at_once(("batch", "length", 30_000), 256, {"length": 128}) == 34
    assert rows_at_once(("batch", "length + 2", 30_000), 256, {"length": 128, "other": 7}) == 34


def test_positions_of_any_number_are_counted_in_what_is_held_at_once(tmp_path):
    words = nn.Sequential(nn.Embedding(30_000, 2), nn.Linear(2, 30_000)).eval()
    ids, dims = torch.zeros(2, 5, dtype=torch.int64), {0: Dim("rows"), 1: Dim("tokens")}
    network = lift(export(words, (ids,), dynamic_shapes=(dims,)))
    rows = Split((np.zeros((300, 128), np.int64),), None, np.arange(300))
    data = Dataset({"validation": rows}, (torch.int64,))
    assert held_at_once(network, data, 256) == 34
    onnx.save(network, tmp_path / "words.onnx")
    session = InferenceSession(tmp_path / "words.onnx", providers=["CPUExecutionProvider"])
    shapes = [value.shape for value in (*session.get_inputs(), *session.get_outputs())]
    assert rows_at_once(shapes[1], 256, dynamic_sizes(shapes[:1], data)) == 34
