"""What networks learn: one file a task."""

from workers.compression.tasks.classification import Classification
from workers.compression.tasks.task import Task

__all__ = ["Classification", "Task"]
