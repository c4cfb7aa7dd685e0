"""Losses that come in late, meet mixed rows, or see a batch in parts: what is learned is what one batch would teach."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.domain.learning_task import LearningTask
from app.domain.steps.distill import DistillSpec
from app.domain.steps.training import FinetuneSpec
from tests.compression.distillation.test_distill import TEACHER_ID, spec
from tests.compression.learners import make_contexts
from tests.compression.training.runs import distance
from workers.compression.distillation import distill
from workers.compression.distillation.imitation import imitate
from workers.compression.formats import pt2
from workers.compression.inference import compute_logits
from workers.compression.training import finetune
from workers.compression.training.criterion import Batch
from workers.compression.training.optimizer import make_optimizer, meet_late

TOKENS, EMBEDDING = LearningTask.TOKEN_CLASSIFICATION, LearningTask.EMBEDDING


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return make_contexts(tmp_path_factory, epochs=1)


@pytest.mark.parametrize("given", [
    {"loss": "hint", "alpha": 1, "alpha_end": 0.2},
    {"loss": "hint", "alpha": 0, "alpha_end": 1},
    {"losses": {"hint": 1, "kd": 1}, "alpha": 0, "alpha_end": 1},
])  # fmt: skip
def test_layers_that_a_loss_reaches_late_are_trained(context, digits_network, untrained, given):
    result = distill.run(untrained, spec(epochs=2, **given), context)
    before, after = untrained.module.state_dict(), result.network.module.state_dict()
    moved = [name for name, _ in untrained.module.named_parameters() if not torch.equal(before[name], after[name])]
    assert moved == [name for name, _ in untrained.module.named_parameters()]


def test_a_weight_that_is_met_late_moves_as_in_a_first_update():
    early, late = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    step = FinetuneSpec(method="finetune", learning_rate=0.1, weight_decay=0.01)
    optimizer = make_optimizer(torch.nn.ModuleList([early, late]), step)
    before = late.weight.detach().clone()
    for met in ((early,), (early, late)):
        for layer in met:
            layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.ones(2)
        meet_late(optimizer)
        optimizer.step()
    # Nesterov's first update is by (1 + momentum) times the gradient.
    torch.testing.assert_close(late.weight.detach(), before - 0.1 * 1.9 * (1 + 0.01 * before))
    assert (optimizer.state[late.bias]["momentum_buffer"] == 1).all()


@pytest.mark.parametrize("losses", [{"hint": 1}, {"hint": 1, "kd": 1}])
def test_hints_are_learned_from_mixed_rows(context, digits_network, losses):
    asked = spec(losses=losses, mixup=0.3, epochs=2, student={"width": 0.5}, learning_rate=0.05)
    result = distill.run(digits_network, asked, context)
    first, last = result.details["epochs"]
    assert last["loss"] < first["loss"]


def test_the_hint_of_mixed_rows_counts_once_for_both_labels(context, digits_network, untrained):
    imitation = imitate(spec(loss="hint", alpha=1), context, untrained)
    student = untrained.clone().module
    imitation.attach(student)
    inputs, labels = context.data.gather("train", np.arange(8))
    batch = Batch(inputs, labels, np.arange(8), changed=True)
    output = student.train()(*inputs)
    one, other = imitation.loss(output, batch), imitation.loss(output, replace(batch, labels=labels.flip(0)))
    assert one == other > 0
    turned = replace(batch, inputs=(inputs[0].flip(3),))
    assert imitation.loss(student(*turned.inputs), turned) != one


def test_embeddings_are_learned_from_mixed_rows(contexts):
    context = contexts[EMBEDDING]
    result = distill.run(context.baseline, DistillSpec(method="distill", epochs=2, mixup=0.3), context)
    assert result.details["epochs"][-1]["held_out_loss"] < 0.1


def test_an_embedding_is_judged_by_its_own_teacher(contexts, tmp_path):
    context = contexts[EMBEDDING]
    other = context.baseline.clone()
    with torch.no_grad():
        # A rotation of the outputs: nothing that is taught there is near to what the baseline gives.
        other.module.fc.weight.copy_(other.module.fc.weight.roll(5, 0))
        other.module.fc.bias.copy_(other.module.fc.bias.roll(5, 0))
    pt2.save(other, tmp_path / "other.pt2")
    context = replace(context, models={TEACHER_ID: pt2.load(tmp_path / "other.pt2")})
    asked = DistillSpec(method="distill", teacher=TEACHER_ID, epochs=4, learning_rate=0.05)
    result = distill.run(context.baseline, asked, context)
    rows = np.arange(300)
    teacher, student = (
        compute_logits(network, context.data, "validation", rows, context.device) for network in (other, result.network)
    )
    found = float(torch.cosine_similarity(teacher, student).mean())
    curve = [epoch["cosine"] for epoch in result.details["epochs"]]
    assert curve[result.details["best_epoch"] - 1] == max(curve)
    assert found == pytest.approx(max(curve), abs=0.03)
    assert found > 0.9


@pytest.mark.parametrize("given", [
    {"class_weights": [1.0, 4.0, 0.5]},
    {"losses": {"kd": 1, "mse": 0.5, "hint": 1}, "alpha": 0.6, "class_weights": [1.0, 4.0, 0.5]},
])  # fmt: skip
def test_batches_of_an_update_teach_what_one_batch_of_all_rows_does(contexts, given):
    # Positions that count, and the weights of their labels, differ from batch to batch.
    context = contexts[TOKENS]
    step, make = (distill.run, DistillSpec) if "losses" in given else (finetune.run, FinetuneSpec)

    def trained(size, accumulate):
        asked = make(method=step.__module__.rpartition(".")[2], epochs=1, learning_rate=0.01, batch_size=size,
                     accumulate=accumulate, **given)  # fmt: skip
        return step(context.baseline, asked, context)

    whole, parts = trained(45, 1), trained(5, 9)
    assert distance(whole.network, parts.network) < 1e-4 * distance(whole.network, context.baseline)
    assert parts.details["epochs"][0]["loss"] == pytest.approx(whole.details["epochs"][0]["loss"], rel=1e-5)
    assert whole.details["epoch_rows"] == parts.details["epoch_rows"] == whole.details["train_rows"] == 405


def test_hints_are_learned_where_no_position_counts(contexts):
    context = contexts[TOKENS]
    imitation = imitate(DistillSpec(method="distill", losses={"kd": 1, "hint": 1}), context, context.baseline)
    student = context.baseline.clone().module.train()
    imitation.attach(student)
    inputs, labels = context.data.gather("train", np.arange(8))
    loss = imitation.loss(student(*inputs), Batch(inputs, torch.full_like(labels, -100), np.arange(8)))
    assert loss > 0.01
