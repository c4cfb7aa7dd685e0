"""What a student is trained to: the labels and a teacher, mixed."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from app.domain.compatibility.distill import fitting_output
from app.domain.errors import ValidationFailed
from app.domain.learning_task import LearningTask
from app.domain.steps.distill import DistillSpec, Loss
from app.domain.steps.training import TrainingSpec
from workers.compression.distillation.hints import Hints
from workers.compression.distillation.losses import cosine_loss, dkd_loss, kd_loss, mse_loss, standardize
from workers.compression.distillation.teacher import TEACHER_FILE, Teacher, find_output, find_teacher
from workers.compression.network import Network
from workers.compression.step import Context
from workers.compression.training.criterion import Batch, LabelLoss, Rows, scaled
from workers.compression.training.weights import class_weights


class Imitation:
    """The loss of labels and of a teacher; temperature and alpha follow the share of the training that is done."""

    def __init__(self, spec: DistillSpec, labels: LabelLoss, teacher: Teacher, hints: Hints | None = None) -> None:
        self.spec, self.teacher = spec.filled(labels.task.name), teacher
        self._labels, self._task, self._hints = labels, labels.task, hints
        self._done = 0.0
        self._hinted: tuple[weakref.ref[Tensor], Tensor] | None = None

    def attach(self, module: nn.Module) -> nn.Module | None:
        return None if self._hints is None else self._hints.attach(module)

    def close(self) -> None:
        """Watch no network any more."""
        self._hinted = None
        if self._hints is not None:
            self._hints.close()

    def advance(self, _: nn.Module, done: float) -> None:
        self._done = done

    def prepare(self, rows: Rows, spec: TrainingSpec) -> None:
        """Have the teacher's outputs computed, where they are needed and rows stay as they are."""
        taught = self.spec.alpha or self.spec.alpha_end
        if taught and self._outputs and self._hints is None and spec.augment is None and spec.mixup is None:
            self.teacher.prepare(rows)

    def reference(self) -> tuple[Network, int]:
        return self.teacher.network, self.teacher.output

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        alpha = self._now(self.spec.alpha, self.spec.alpha_end)
        terms = []
        if alpha < 1:
            terms.append((1 - alpha) * self._labels.loss(output, batch))
        if alpha > 0:
            terms.append(alpha * self._taught(output, batch))
        return torch.stack(terms).sum()

    def describe(self) -> dict[str, Any]:
        """Tell for the report who taught, and by what."""
        told: dict[str, Any] = {"network": self.spec.teacher, "output": self.teacher.output_name}
        told["losses"] = dict(self.spec.imitated)
        return told if self._hints is None else told | {"hints": self._hints.describe()}

    @property
    def _outputs(self) -> dict[Loss, float]:
        return {name: weight for name, weight in self.spec.imitated.items() if name != "hint"}

    def _now(self, begin: float | None, end: float | None) -> float:
        assert begin is not None
        return begin if end is None else begin + (end - begin) * self._done

    def _taught(self, output: Tensor, batch: Batch) -> Tensor:
        """Give the weighted sum of all that is imitated."""
        imitated, losses = self.spec.imitated, []
        if self._hints is not None:
            target, features = self.teacher.show(batch, [pair.teacher for pair in self._hints.pairs])
            losses.append(scaled(imitated["hint"] * self._hint(self._hints, output, features), batch.share()))
        elif self._outputs:
            target = self.teacher.teach(batch)
        if self._outputs:
            student, labels = self._task.counted(output, batch.labels)
            teacher, _ = self._task.counted(target, batch.labels)
            share = batch.share(self._task.mass)
            for name, weight in self._outputs.items():
                # A mean over nothing would be no number.
                found = self._compare(name, student, teacher, labels) if len(student) else output.sum() * 0
                losses.append(scaled(weight * found, share))
        return torch.stack(losses).sum()

    def _hint(self, hints: Hints, output: Tensor, teacher: dict[str, Tensor]) -> Tensor:
        """Give the loss of the layers behind an output: one and the same for both labels of mixed rows."""
        if self._hinted is None or self._hinted[0]() is not output:
            self._hinted = weakref.ref(output), hints.loss(teacher)
        return self._hinted[1]

    def _compare(self, name: Loss, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        if name in _ALIKE:
            return _ALIKE[name](student, teacher)
        if self.spec.logit_standardization:
            student, teacher = standardize(student), standardize(teacher)
        temperature = self._now(self.spec.temperature, self.spec.temperature_end)
        if name == "kd":
            return kd_loss(student, teacher, temperature)
        parts = {"alpha": self.spec.dkd_alpha, "beta": self.spec.dkd_beta}
        return dkd_loss(student, teacher, labels, temperature, **parts)


_ALIKE = {"mse": mse_loss, "cosine": cosine_loss}


def imitate(spec: DistillSpec, context: Context, student: Network | None = None) -> Imitation:
    """Give the loss against the teacher that a step names; hints need the student that they will be given to.

    Raises:
        ValidationFailed: layers or outputs that the step names are not there, or do not fit.
    """
    spec = spec.filled(context.task.name)
    network = find_teacher(spec, context)
    output = find_output(network, spec.teacher_output)
    hints = None
    if "hint" in spec.imitated:
        assert student is not None
        hints = Hints(network, student, spec.hints)
    # An embedding is judged by its teacher's vectors, whatever it learns by.
    if student is not None and (spec.imitated.keys() != {"hint"} or context.task.name is LearningTask.EMBEDDING):
        _check_outputs(network, output, student)
    teacher = Teacher(network, output, context, context.folder / TEACHER_FILE)
    return Imitation(spec, LabelLoss(context.task, class_weights(spec, context)), teacher, hints)


def _check_outputs(teacher: Network, output: int, student: Network) -> None:
    theirs, ours = teacher.signature.outputs[output], student.signature.outputs[0]
    if theirs.shape[1:] != ours.shape[1:]:
        raise ValidationFailed(
            f"the teacher's output {theirs.name!r} is {list(theirs.shape)}, the student's first {list(ours.shape)}",
            hint=fitting_output(teacher.signature, ours) or "Choose another teacher, or imitate by hint alone.",
        )
