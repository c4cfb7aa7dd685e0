"""Whether a step that distils has a teacher and a student that fit the model, the data and each other."""

from collections.abc import Mapping, Sequence

from app.domain.compatibility.refusal import listed, refuse, with_operator
from app.domain.compatibility.task import class_count
from app.domain.dataset import DatasetFacts
from app.domain.errors import (
    LabelsOutOfRange,
    ModelMismatch,
    NoStudent,
    NotTrainable,
    RecipeOrder,
    TaskMismatch,
    ValidationFailed,
)
from app.domain.learning_task import SOFT_TARGETS, LearningTask
from app.domain.model import ModelFacts, TensorSpec
from app.domain.steps.distill import BASELINE, DEFAULT_LOSS, OF_CLASSES, DerivedStudent, DistillSpec

Models = Mapping[str, ModelFacts]


def student_of(step: object, model: ModelFacts, others: Models) -> ModelFacts:
    """Give what the network is behind a step: another model where the step puts one in its place."""
    named = step.student if isinstance(step, DistillSpec) else None
    return others[named] if isinstance(named, str) else model


def check(
    step: DistillSpec, position: int, model: ModelFacts, dataset: DatasetFacts, others: Models, task: LearningTask
) -> None:
    """Raise the first reason for which the step could only fail."""
    pointer = f"/recipe/{position}"
    teacher = model if step.teacher == BASELINE else others[step.teacher]
    student = student_of(step, model, others)
    _check_inputs(teacher, model, f"{pointer}/teacher", "teacher")
    _check_student(step, position, model, student, dataset, task)
    _check_losses(step, task, pointer)
    _check_outputs(step, teacher, student, pointer)
    _check_hints(step, teacher, student, pointer)


def _check_inputs(one: ModelFacts, model: ModelFacts, pointer: str, role: str) -> None:
    if one.signature.inputs != model.signature.inputs:
        message = (
            f"The {role} takes {_told(one.signature.inputs)}, the model {_told(model.signature.inputs)};"
            " both must read the same rows."
        )
        raise refuse(ModelMismatch, pointer, message)


def _check_student(
    step: DistillSpec, position: int, model: ModelFacts, student: ModelFacts, dataset: DatasetFacts, task: LearningTask
) -> None:
    if step.student is None:
        return
    pointer = f"/recipe/{position}/student"
    if position:
        message = "A student takes the network's place, and what the steps before it did would be lost."
        raise refuse(RecipeOrder, pointer, message, "Make this the first step, or leave the student out.")
    if isinstance(step.student, DerivedStudent):
        if step.student.width is not None and not any(layer.prunable for layer in model.layers):
            told = listed(model.layers, lambda layer: f"{with_operator(layer)}: {layer.reason}", between="; ")
            raise refuse(NoStudent, f"{pointer}/width", f"No layer can be narrowed; there are: {told}.")
        if step.student.depth is not None and model.blocks is not None:
            try:
                count_kept(model.blocks, step.student.depth, listed(model.layers, lambda layer: layer.name))
            except NoStudent as error:
                raise refuse(NoStudent, f"{pointer}/depth", error.detail, error.hint) from error
        return
    _check_inputs(student, model, pointer, "student")
    if student.quantized:
        raise refuse(NotTrainable, pointer, "The student is quantized already, and rounded weights cannot be trained.")
    if not student.trainable:
        raise refuse(NotTrainable, pointer, "The step trains, and the student was exported without a way to.")
    classes = class_count(task, student.signature)
    if task in SOFT_TARGETS and isinstance(classes, int) and (dataset.classes or 0) > classes:
        message = f"There are labels of {dataset.classes} classes; the student tells {classes} apart."
        raise refuse(LabelsOutOfRange, pointer, message)


def count_kept(blocks: Sequence[Sequence[str]], depth: float, layers: str) -> int:
    """Count the blocks, each told by its layers, that stay of those that can go. Raises NoStudent where none would."""
    kept = round(len(blocks) * depth)
    if not blocks:
        raise NoStudent(
            "depth drops blocks that give what they take in shape, residual blocks, encoder layers or others that are"
            f" repeated; there is none among {layers}.",
            hint="Give a width, or a student of your own.",
        )
    if not 0 < kept < len(blocks):
        raise NoStudent(
            f"a depth of {depth:g} rounds to {kept} of the {len(blocks)} blocks that can go: "
            + "; ".join(", ".join(block) for block in blocks),
            hint=f"{1 / len(blocks):.2g} keeps one, {1 - 1 / len(blocks):.2g} drops one.",
        )
    return kept


def _check_losses(step: DistillSpec, task: LearningTask, pointer: str) -> None:
    imitated = step.filled(task).imitated.keys()
    if not imitated & OF_CLASSES:
        if field := step.set_of_classes():
            message = f"{field} is of kd and dkd, and {task} imitates by {' and '.join(sorted(imitated))}."
            raise refuse(ValidationFailed, f"{pointer}/{field}", message)
        return
    if DEFAULT_LOSS[task] not in OF_CLASSES:
        field = "loss" if step.loss is not None else "losses"
        message = f"kd and dkd are of classes of which one holds, which {task} does not have."
        raise refuse(TaskMismatch, f"{pointer}/{field}", message, f"Choose {DEFAULT_LOSS[task]}.")


def _check_outputs(step: DistillSpec, teacher: ModelFacts, student: ModelFacts, pointer: str) -> None:
    outputs = {output.name: output for output in teacher.signature.outputs}
    if step.teacher_output is not None and step.teacher_output not in outputs:
        message = f"The teacher has no output {step.teacher_output!r}; it has {', '.join(outputs)}."
        raise refuse(ModelMismatch, f"{pointer}/teacher_output", message)
    theirs = outputs[step.teacher_output] if step.teacher_output else teacher.signature.outputs[0]
    ours = student.signature.outputs[0]
    if step.imitated.keys() != {"hint"} and theirs.shape[1:] != ours.shape[1:]:
        named = "teacher_output" if step.teacher_output else "teacher" if step.teacher != BASELINE else "student"
        message = (
            f"The teacher's output {theirs.name!r} is {list(theirs.shape)}, the student's first {list(ours.shape)};"
            " what is imitated must be of one shape."
        )
        raise refuse(ModelMismatch, f"{pointer}/{named}", message)


def _check_hints(step: DistillSpec, teacher: ModelFacts, student: ModelFacts, pointer: str) -> None:
    for place, pair in enumerate(step.hints):
        for role, name, model in (("teacher", pair.teacher, teacher), ("student", pair.student, student)):
            if not any(layer.name == name for layer in model.layers):
                message = f"The {role} has no layer {name!r}; it has {listed(model.layers, lambda layer: layer.name)}."
                raise refuse(ValidationFailed, f"{pointer}/hints/{place}/{role}", message)


def _told(inputs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in inputs)
