"""Whether an objective and the steps that learn make sense for what the network learns."""

from app.domain.compatibility.refusal import refuse
from app.domain.compatibility.task import class_count
from app.domain.errors import TaskMismatch
from app.domain.job import Objective
from app.domain.learning_task import METRICS, SMOOTHED, SOFT_TARGETS, TOP, WEIGHED, LearningTask, Metric
from app.domain.model import Signature
from app.domain.recipe import Recipe, Step
from app.domain.steps.distill import BASELINE, DistillSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec
from app.domain.steps.training import FinetuneSpec, TrainingSpec


def objective_metric(objective: Objective, task: LearningTask) -> Metric:
    """Give the metric that an objective is about."""
    return objective.metric or METRICS[task][0]


def check_objective(objective: Objective | None, task: LearningTask, signature: Signature) -> None:
    if objective is None or objective.metric is None:
        return
    known, pointer = METRICS[task], "/objective/metric"
    if objective.metric not in known:
        message = f"{objective.metric} says nothing of {task}; an objective can be about {', '.join(known)}."
        raise refuse(TaskMismatch, pointer, message)
    classes = class_count(task, signature)
    if objective.metric == "top5_accuracy" and isinstance(classes, int) and classes <= TOP:
        message = f"Of {classes} classes the label is always among the first {TOP}: top5_accuracy says nothing."
        raise refuse(TaskMismatch, pointer, message)


def check_teachers(objective: Objective | None, recipe: Recipe, task: LearningTask) -> None:
    """Raise TaskMismatch where vectors may lose little against one model, and learn those of another."""
    if objective is None or task is not LearningTask.EMBEDDING:
        return
    for step in recipe:
        if isinstance(step, DistillSpec) and step.teacher != BASELINE:
            message = (
                "An objective of an embedding bounds how far its vectors are from the uploaded model's, and"
                f" {step.teacher} teaches others."
            )
            raise refuse(TaskMismatch, "/objective", message, "Leave the objective out, or teach by the baseline.")


def check_steps(recipe: Recipe, task: LearningTask, signature: Signature) -> None:
    """Raise TaskMismatch for the first step that the task gives nothing to learn from."""
    for position, step in enumerate(recipe):
        pointer = f"/recipe/{position}"
        if task is LearningTask.EMBEDDING and (field := _needs_labels(step)) is not None:
            message = "The step learns from labels, and an embedding has none."
            raise refuse(TaskMismatch, f"{pointer}{field}", message)
        if class_count(task, signature) == 1 and task in SOFT_TARGETS and (field := _imitates(step)) is not None:
            # A softmax of one class is 1 whatever its logit, so that kd has no gradient.
            message = "A teacher shows here how likely classes are, and the network has one, which is always certain."
            raise refuse(TaskMismatch, f"{pointer}{field}", message, "Distil by mse in a step of its own.")
        if isinstance(step, TrainingSpec):
            _check_weights(step, task, signature, f"{pointer}/class_weights")
        if isinstance(step, FinetuneSpec) and step.label_smoothing and task not in SMOOTHED:
            message = f"Labels that name classes are smoothed, of {', '.join(sorted(SMOOTHED))}; the task is {task}."
            raise refuse(TaskMismatch, f"{pointer}/label_smoothing", message)


def _needs_labels(step: Step) -> str | None:
    """Give the pointer, within a step, to what makes it need labels."""
    if isinstance(step, PruneSpec) and step.criterion == "taylor":
        return "/criterion"
    if isinstance(step, PruneSpec) and step.trained_epochs and step.recovery_method == "finetune":
        return "/recovery_method"
    if isinstance(step, FinetuneSpec):
        return ""
    if isinstance(step, DistillSpec):
        if not step.filled(LearningTask.EMBEDDING).needs_labels:
            return None
        return "/alpha" if step.alpha is not None else "/alpha_end" if step.alpha_end is not None else "/losses"
    return "/scheme" if isinstance(step, QuantizeSpec) and step.trained_epochs and step.teacher is None else None


def _imitates(step: Step) -> str | None:
    """Give the pointer, within a step whose losses nobody can choose, to what makes it imitate a teacher."""
    if isinstance(step, PruneSpec) and step.trained_epochs and step.recovery_method == "distill":
        return "/recovery_method"
    return "/teacher" if isinstance(step, QuantizeSpec) and step.trained_epochs and step.teacher is not None else None


def _check_weights(step: TrainingSpec, task: LearningTask, signature: Signature, pointer: str) -> None:
    if step.class_weights is None:
        return
    if task not in WEIGHED:
        message = f"Weights are of classes, for {', '.join(sorted(WEIGHED))}; the task is {task}."
        raise refuse(TaskMismatch, pointer, message)
    classes = class_count(task, signature)
    if not isinstance(step.class_weights, str) and not any(step.class_weights):
        raise refuse(TaskMismatch, pointer, "All weights are 0: there is nothing to learn from labels.")
    if not isinstance(step.class_weights, str) and len(step.class_weights) != classes:
        message = f"There are {len(step.class_weights)} weights; the model tells {classes} classes apart."
        raise refuse(TaskMismatch, pointer, message)
