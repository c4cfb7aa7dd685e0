"""What a report is about, beside its figures: what the user called things, and which files they gave."""

from dataclasses import dataclass

from app.domain.task import Compress, Upload


@dataclass(frozen=True)
class Subject:
    """A job as its user named it; ``model`` and ``dataset`` are null where the engine is used without a service."""

    name: str = ""
    target: str = "onnxruntime-cpu"
    labels: tuple[tuple[str, str], ...] = ()
    model: Upload | None = None
    dataset: Upload | None = None

    @property
    def title(self) -> str:
        return self.name or (self.model.name if self.model else "") or "Compression job"


UNNAMED = Subject()


def subject_of(task: Compress) -> Subject:
    job = task.job
    return Subject(job.name, job.target, tuple(sorted(job.labels.items())), task.model, task.dataset)
