from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from app.domain.errors import ValidationFailed
from app.domain.learning_task import LearningTask
from app.domain.steps.distill import DistillSpec
from workers.compression.datasets import Dataset, Split
from workers.compression.distillation import distill
from workers.compression.distillation.imitation import imitate
from workers.compression.distillation.losses import dkd_loss, kd_loss, standardize
from workers.compression.inference import compute_logits
from workers.compression.lifting import lift
from workers.compression.tasks import TASKS
from workers.compression.training.criterion import Batch

CPU = torch.device("cpu")
TEACHER_ID = "mdl_01J00000000000000000000000"


def spec(**given):
    return DistillSpec(method="distill", **({"epochs": 3} | given))


def batch_of(context, count=16, **given):
    rows = np.arange(count)
    inputs, labels = context.data.gather("train", rows)
    return Batch(inputs, labels, rows, **given)


def test_the_student_comes_closer_to_the_teacher(context, digits_network, untrained):
    result = distill.run(untrained, spec(alpha=1.0, learning_rate=0.1), context)
    rows = np.arange(360)
    teacher, before, after = (
        compute_logits(network, context.data, "validation", rows, CPU)
        for network in (digits_network, untrained, result.network)
    )
    assert F.mse_loss(after, teacher) < 0.5 * F.mse_loss(before, teacher)
    assert (after.argmax(1) == teacher.argmax(1)).double().mean() > 0.7
    assert result.details["teacher"] == {"network": "baseline", "output": "output", "losses": {"kd": 1.0}}
    assert result.details["student"] == {"network": "recipe"}
    assert (result.spec.loss, result.spec.alpha, result.began) == ("kd", 1.0, None)


def test_the_baseline_and_the_network_stay_as_they_were(context, digits_network):
    before = {name: value.clone() for name, value in digits_network.module.state_dict().items()}
    result = distill.run(digits_network, spec(epochs=1), context)
    for name, value in context.baseline.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not digits_network.module.training
    moved = result.network.module.state_dict()
    assert not torch.equal(moved["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(moved["bn1.running_mean"], before["bn1.running_mean"])


def test_labels_and_teacher_are_mixed_by_alpha_and_losses_by_their_weights(context, digits_network, untrained):
    batch = batch_of(context)
    with torch.no_grad():
        teacher, student = digits_network.module(*batch.inputs), untrained.module(*batch.inputs)
    labels = F.cross_entropy(student, batch.labels)

    def loss(**given):
        return imitate(spec(**given), context, untrained).loss(student, batch)

    soft = kd_loss(student, teacher, 4)
    torch.testing.assert_close(loss(), 0.3 * labels + 0.7 * soft)
    torch.testing.assert_close(loss(alpha=0), labels)
    torch.testing.assert_close(loss(loss="mse"), F.mse_loss(student, teacher))
    parts = dkd_loss(student, teacher, batch.labels, 2, alpha=1, beta=3)
    torch.testing.assert_close(loss(loss="dkd", temperature=2, dkd_beta=3, alpha=1), parts)
    both = loss(losses={"kd": 2, "mse": 0.5}, alpha=0.5)
    torch.testing.assert_close(both, 0.5 * labels + 0.5 * (2 * soft + 0.5 * F.mse_loss(student, teacher)))
    even = kd_loss(standardize(student), standardize(teacher), 4)
    torch.testing.assert_close(loss(logit_standardization=True, alpha=1), even)


def test_temperature_and_alpha_follow_the_share_that_is_done(context, digits_network, untrained):
    batch = batch_of(context)
    with torch.no_grad():
        teacher, student = digits_network.module(*batch.inputs), untrained.module(*batch.inputs)
    labels = F.cross_entropy(student, batch.labels)
    given = spec(temperature=8, temperature_end=2, alpha=1, alpha_end=0)
    imitation = imitate(given, context, untrained)
    for done, temperature, alpha in ((0, 8, 1), (0.5, 5, 0.5), (0.75, 3.5, 0.25)):
        imitation.advance(untrained.module, done)
        expected = (1 - alpha) * labels + alpha * kd_loss(student, teacher, temperature)
        torch.testing.assert_close(imitation.loss(student, batch), expected)
    heard = []
    imitation.advance = lambda _, done: heard.append(done)
    distill.fit(untrained, given.model_copy(update={"epochs": 1, "batch_size": 512}), context, imitation,
                imitation.advance)  # fmt: skip
    assert heard == [0, 0.5]


def test_the_teacher_is_asked_anew_only_where_rows_were_changed(context, digits_network, untrained):
    imitation = imitate(spec(alpha=1), context, untrained)
    batch = batch_of(context)
    changed = replace(batch, inputs=(batch.inputs[0].flip(3),), changed=True)
    with torch.no_grad():
        student = untrained.module(*batch.inputs)
        kept, asked = (digits_network.module(*given.inputs) for given in (batch, changed))
    torch.testing.assert_close(imitation.loss(student, changed), kd_loss(student, asked, 4))
    assert not (context.folder / "teacher.npy").exists()
    torch.testing.assert_close(imitation.loss(student, batch), kd_loss(student, kept, 4))
    assert not (context.folder / "teacher.npy").exists()
    imitation.prepare(np.arange(100), spec())
    (context.folder / "teacher.npy").rename(context.folder / "moved.npy")
    imitation.teacher.network.module.conv1.register_forward_hook(lambda *_: pytest.fail("asked again"))
    torch.testing.assert_close(imitation.loss(student, batch), kd_loss(student, kept, 4))
    mapped = imitation.teacher.outputs
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    assert mapped.dtype == np.float32


def test_hints_train_the_student_with_adapters_that_are_no_part_of_the_result(context, untrained, digits_network):
    asked = spec(losses={"kd": 1, "hint": 2}, student={"width": 0.5}, epochs=2, learning_rate=0.05)
    result = distill.run(digits_network, asked, context)
    pairs = result.details["teacher"]["hints"]
    assert pairs
    assert not [name for name, _ in result.network.module.named_modules() if "adapter" in name]
    assert all(not part._forward_hooks for part in result.network.module.modules())
    assert result.details["student"]["network"] == "derived"
    assert result.began.module.get_submodule("conv1").weight.shape[0] == 8
    again = distill.run(digits_network, asked, context)
    for name, value in result.network.module.state_dict().items():
        assert torch.equal(value, again.network.module.state_dict()[name]), name


def test_another_model_teaches_and_another_learns(context, digits_network, untrained):
    context = replace(context, baseline=untrained, models={TEACHER_ID: digits_network})
    result = distill.run(untrained, spec(teacher=TEACHER_ID, alpha=1, learning_rate=0.1), context)
    labels = context.data.labels("validation")
    logits = compute_logits(result.network, context.data, "validation", np.arange(360), CPU).numpy()
    assert (logits.argmax(1) == labels).mean() > 0.7
    assert result.details["teacher"]["network"] == TEACHER_ID
    taken = distill.run(untrained, spec(student=TEACHER_ID, epochs=1, alpha=0), context)
    assert taken.details["student"] == {"network": TEACHER_ID}
    assert taken.began is digits_network


class Twofold(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 7), nn.Linear(7, 10)

    def forward(self, x):
        inner = self.body(x.flatten(1))
        return inner, self.head(inner)


def test_one_of_several_outputs_teaches_by_its_name(context, untrained):
    torch.manual_seed(0)
    shapes = ({0: Dim("batch")},)
    teacher = lift(torch.export.export(Twofold().eval(), (torch.randn(2, 1, 8, 8),), dynamic_shapes=shapes))
    context = replace(context, models={TEACHER_ID: replace(teacher, signature=teacher.signature.model_copy(
        update={"inputs": context.baseline.signature.inputs}))})  # fmt: skip
    batch = batch_of(context)
    with torch.no_grad():
        student, (_, second) = untrained.module(*batch.inputs), teacher.module(*batch.inputs)
    asked = spec(teacher=TEACHER_ID, teacher_output="output_1", loss="mse")
    torch.testing.assert_close(imitate(asked, context, untrained).loss(student, batch), F.mse_loss(student, second))
    for name, said, hint in (
        (None, r"'output' is \['batch', 7\], the student's first", "Name as teacher_output one that fits: output_1."),
        ("logits", "it has output, output_1", None),
    ):
        with pytest.raises(ValidationFailed, match=said) as caught:
            imitate(spec(teacher=TEACHER_ID, teacher_output=name), context, untrained)
        assert caught.value.hint == hint


def test_no_labels_are_needed_where_outputs_are_all_that_is_imitated(context, digits_network, untrained):
    bare = {name: Split(split.inputs, None, split.order) for name, split in context.data.splits.items()}
    without = replace(context, data=Dataset(bare, context.data.dtypes), task=TASKS[LearningTask.EMBEDDING])
    result = distill.run(untrained, spec(loss="cosine", learning_rate=0.1, epochs=8), without)
    found = [epoch["held_out_loss"] for epoch in result.details["epochs"]]
    assert found[-1] < 0.5 * found[0]
    rows = np.arange(360)
    teacher, after = (
        compute_logits(network, context.data, "validation", rows, CPU) for network in (digits_network, result.network)
    )
    assert F.cosine_similarity(teacher, after).mean() > 0.8


def test_the_teacher_runs_once_for_a_batch_of_mixed_rows(context, untrained):
    batch = batch_of(context, changed=True)
    imitation = imitate(spec(loss="mse"), context, untrained)
    runs = []
    imitation.teacher.network.module.conv1.register_forward_hook(lambda *_: runs.append(None))
    output = untrained.module(*batch.inputs)
    partner = replace(batch, labels=batch.labels.flip(0), rows=batch.rows[::-1])
    losses = [imitation.loss(output, asked) for asked in (batch, partner)]
    assert len(runs) == 1
    assert losses[0] == losses[1]
    imitation.loss(output, batch_of(context, changed=True))
    assert len(runs) == 2
