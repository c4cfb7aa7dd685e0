"""What networks learn: one file a kind of output."""

from collections.abc import Mapping

from app.domain.learning_task import LearningTask
from workers.compression.tasks.classification import Classification
from workers.compression.tasks.multilabel import Multilabel
from workers.compression.tasks.regression import Embedding, Regression
from workers.compression.tasks.segmentation import Segmentation
from workers.compression.tasks.task import Task
from workers.compression.tasks.tokens import LanguageModelling, TokenClassification

TASKS: Mapping[LearningTask, Task] = {
    task.name: task
    for task in (
        Classification(),
        Multilabel(),
        Regression(),
        Embedding(),
        TokenClassification(),
        LanguageModelling(),
        Segmentation(),
    )
}

__all__ = ["TASKS", "Classification", "Task"]
