"""What a teacher keeps of its outputs, in which precision it computes, and what happens where there is no room."""

import resource
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from app.domain.job import EventType
from tests.compression.distillation.test_distill import batch_of, spec
from tests.compression.training.runs import same
from workers.compression.distillation import distill
from workers.compression.distillation.imitation import imitate
from workers.compression.distillation.teacher import MOST_BYTES, NoRoom, _begin_file
from workers.compression.inference import compute_logits
from workers.compression.training.loop import fit
from workers.compression.training.rows import split_rows


@contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def logged(events):
    return [event.data["message"] for event in events if event.type == EventType.LOG]


def test_outputs_are_kept_of_the_rows_that_are_trained_on_alone(context, digits_network):
    imitation = imitate(spec(), context)
    fitted, held = split_rows(context.data.rows("train"), 0)
    imitation.prepare(fitted, spec())
    assert imitation.teacher.outputs.shape == (len(fitted), 10)
    rows = fitted[[5, 900, 3]]
    batch = replace(batch_of(context), rows=rows)
    expected = compute_logits(digits_network, context.data, "train", rows, context.device)
    torch.testing.assert_close(imitation.teacher.teach(batch), expected)
    before = (context.folder / "teacher.npy").stat()
    imitation.prepare(fitted.copy(), spec())
    assert (context.folder / "teacher.npy").stat() == before
    imitation.prepare(held, spec())
    assert imitation.teacher.outputs.shape == (len(held), 10)
    assert [path.name for path in context.folder.glob("teacher*")] == ["teacher.npy"]


@pytest.mark.parametrize("given", [
    {"mixup": 0.2}, {"augment": {"flip": True}}, {"alpha": 0}, {"losses": {"kd": 1, "hint": 1}},
])  # fmt: skip
def test_nothing_is_computed_that_nobody_asks_for(context, digits_network, given):
    asked = spec(**given)
    imitate(asked, context, digits_network).prepare(np.arange(64), asked)
    assert not (context.folder / "teacher.npy").exists()


def test_a_disk_without_room_is_told_and_the_teacher_asked_anew(context, digits_network, untrained, events):
    asked = spec(epochs=1)
    kept = distill.run(untrained, asked, context)
    (context.folder / "teacher.npy").unlink()
    imitation = imitate(asked, context, untrained)
    fitted, _ = split_rows(context.data.rows("train"), context.seed)
    with files_of_at_most(32 << 10):  # a half of what 1,293 rows of ten logits take
        imitation.prepare(fitted, asked)
    assert "the teacher's outputs: the teacher is asked anew for every batch" in logged(events)[-1]
    assert list(context.folder.glob("teacher*")) == []
    anew = fit(untrained, asked, context, imitation, imitation.advance)
    assert list(context.folder.glob("teacher*")) == []
    assert anew.details["epochs"][0]["loss"] == pytest.approx(kept.details["epochs"][0]["loss"], rel=1e-4)


def test_outputs_beyond_the_bound_are_not_begun(tmp_path):
    path = tmp_path / "teacher.npy"
    with path.open("wb") as file, pytest.raises(NoRoom, match=r"are 8 GiB, more than the 8 GiB that are kept"):
        _begin_file(file, (MOST_BYTES // 4 + 1, 1), tmp_path)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("given", [{}, {"mixup": 0.2}, {"losses": {"kd": 1, "hint": 1}}])
def test_the_teacher_computes_in_float32_whatever_the_student_does(context, digits_network, given):
    asked = spec(epochs=1, precision="bf16", **given)
    imitation = imitate(asked, context, digits_network)
    heard = {"teacher": set(), "student": set()}
    imitation.teacher.network.module.conv1.register_forward_hook(lambda *run: heard["teacher"].add(run[2].dtype))
    student = digits_network.clone()
    student.module.conv1.register_forward_hook(
        lambda layer, _, found: heard["student"].add(found.dtype) if layer.training else None
    )
    fit(student, asked, context, imitation)
    assert heard == {"teacher": {torch.float32}, "student": {torch.bfloat16}}


def test_the_teacher_takes_smaller_batches_where_its_own_are_too_large(context, digits_network, untrained):
    asked = spec(epochs=1)
    imitation = imitate(asked, context, untrained)
    sizes = []

    def refuse(_, inputs):
        sizes.append(len(inputs[0]))
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    imitation.teacher.network.module.conv1.register_forward_pre_hook(refuse)
    result = fit(untrained, asked, context, imitation, imitation.advance)
    assert sizes[:4] == [256, 128, 64, 64]
    assert "setbacks" not in result.details
    assert not same(result.network, untrained)
