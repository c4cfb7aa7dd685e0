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
from app.domain.model import ModelFacts, Signature, TensorSpec
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
    step = step.filled(task)
    _check_inputs(teacher, model, f"{pointer}/teacher", "teacher")
    _check_student(step, position, model, student, dataset, task)
    _check_losses(step, task, student, pointer)
    # An embedding is judged by its teacher's vectors, whatever it learns by.
    if step.imitated.keys() != {"hint"} or task is LearningTask.EMBEDDING:
        _check_outputs(step, teacher, student, pointer)
    if "hint" in step.imitated:
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
    _check_other_student(pointer, model, student, dataset, task)


def _check_other_student(
    pointer: str, model: ModelFacts, student: ModelFacts, dataset: DatasetFacts, task: LearningTask
) -> None:
    _check_inputs(student, model, pointer, "student")
    if student.quantized:
        raise refuse(NotTrainable, pointer, "The student is quantized already, and rounded weights cannot be trained.")
    if not student.trainable:
        raise refuse(NotTrainable, pointer, "The step trains, and the student was exported without a way to.")
    classes = class_count(task, student.signature)
    if task in SOFT_TARGETS and isinstance(classes, int) and (dataset.classes or 0) > classes:
        message = f"There are labels of {dataset.classes} classes; the student tells {classes} apart."
        raise refuse(LabelsOutOfRange, pointer, message)
    theirs, ours = (facts.signature.outputs[0].shape for facts in (model, student))
    if task not in SOFT_TARGETS and theirs[1:] != ours[1:]:
        message = (
            f"The student's first output is {list(ours)}, the model's {list(theirs)}; the result of {task} is judged by"
            " the numbers that the model gives."
        )
        raise refuse(ModelMismatch, pointer, message)


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


def _check_losses(step: DistillSpec, task: LearningTask, student: ModelFacts, pointer: str) -> None:
    imitated = step.imitated.keys()
    if not imitated & OF_CLASSES:
        if field := step.set_of_classes():
            message = f"{field} is of kd and dkd, and {task} imitates by {' and '.join(sorted(imitated))}."
            raise refuse(ValidationFailed, f"{pointer}/{field}", message)
        return
    if DEFAULT_LOSS[task] not in OF_CLASSES:
        field = "loss" if step.loss is not None else "losses"
        message = f"kd and dkd are of classes of which one holds, which {task} does not have."
        raise refuse(TaskMismatch, f"{pointer}/{field}", message, f"Choose {DEFAULT_LOSS[task]}.")
    if class_count(task, student.signature) == 1:
        # A softmax of one class is 1 whatever its logit: kd has no gradient, and dkd no other classes to compare.
        name = next(name for name in step.imitated if name in OF_CLASSES)
        field = "loss" if step.loss is not None else f"losses/{name}"
        message = f"{name} compares how likely classes are, and the student has one, which is always certain."
        raise refuse(TaskMismatch, f"{pointer}/{field}", message, "Choose mse, which imitates the output as it is.")


def _check_outputs(step: DistillSpec, teacher: ModelFacts, student: ModelFacts, pointer: str) -> None:
    outputs = {output.name: output for output in teacher.signature.outputs}
    if step.teacher_output is not None and step.teacher_output not in outputs:
        message = f"The teacher has no output {step.teacher_output!r}; it has {', '.join(outputs)}."
        raise refuse(ModelMismatch, f"{pointer}/teacher_output", message)
    theirs = outputs[step.teacher_output] if step.teacher_output else teacher.signature.outputs[0]
    ours = student.signature.outputs[0]
    if theirs.shape[1:] != ours.shape[1:]:
        named = "teacher_output" if step.teacher_output else "teacher" if step.teacher != BASELINE else "student"
        message = (
            f"The teacher's output {theirs.name!r} is {list(theirs.shape)}, the student's first {list(ours.shape)};"
            " what is imitated must be of one shape."
        )
        raise refuse(ModelMismatch, f"{pointer}/{named}", message, fitting_output(teacher.signature, ours))


def fitting_output(teacher: Signature, ours: TensorSpec) -> str | None:
    """Name for a hint the teacher's outputs that a student's could be compared with."""
    fitting = [output.name for output in teacher.outputs if output.shape[1:] == ours.shape[1:]]
    return f"Name as teacher_output one that fits: {', '.join(fitting)}." if fitting else None


def _check_hints(step: DistillSpec, teacher: ModelFacts, student: ModelFacts, pointer: str) -> None:
    for place, pair in enumerate(step.hints):
        for role, name, model in (("teacher", pair.teacher, teacher), ("student", pair.student, student)):
            _check_layer(role, name, model, f"{pointer}/hints/{place}/{role}")
    if teacher.features is None or student.features is None:
        return
    for place, pair in enumerate(step.hints):
        theirs, ours = list(teacher.features[pair.teacher][1:]), list(student.features[pair.student][1:])
        if theirs != ours:
            message = (
                f"{pair.student} of the student gives {ours} places a row, {pair.teacher} of the teacher {theirs}:"
                " a 1x1 adapter changes channels alone."
            )
            raise refuse(ValidationFailed, f"{pointer}/hints/{place}", message, "Pair layers of the same size.")
    there, here = teacher.features.values(), student.features.values()
    if not step.hints and {shape[1:] for shape in there}.isdisjoint(shape[1:] for shape in here):
        field = "loss" if step.loss is not None else "losses/hint"
        message = "No layers of teacher and student match by the size of what they give."
        raise refuse(ValidationFailed, f"{pointer}/{field}", message, "Choose another loss, or another student.")


def _check_layer(role: str, name: str, model: ModelFacts, pointer: str) -> None:
    if not any(layer.name == name for layer in model.layers):
        message = f"The {role} has no layer {name!r}; it has {listed(model.layers, lambda layer: layer.name)}."
        raise refuse(ValidationFailed, pointer, message)
    if model.features is not None and name not in model.features:
        message = f"What the {role}'s layer {name!r} gives is the network's own output, or has no channels."
        raise refuse(ValidationFailed, pointer, message, "Pair a layer before it; beside hint, outputs are imitated.")


def _told(inputs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in inputs)
