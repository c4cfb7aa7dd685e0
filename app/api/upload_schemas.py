"""The bodies of ``/models``, ``/datasets`` and ``/uploads``."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas import Items
from app.db.tables import DatasetRow, ModelRow, UploadRow
from app.domain.dataset import DatasetFacts, DatasetFormat, LabelFacts, Preprocessing, SplitFacts
from app.domain.errors import Failure
from app.domain.exact import Exact
from app.domain.job import NameText
from app.domain.model import Layer, ModelFormat, ObjectState, Signature, TensorSpec
from app.domain.tus import parse_details


class _UploadOut(BaseModel):
    id: str
    name: str
    format: str
    state: ObjectState
    problem: Failure | None
    size_bytes: int
    sha256: str
    created_at: datetime


class Origin(BaseModel):
    """The job that made a model, and the model it was made from."""

    job_id: str
    model_id: str


class ModelOut(_UploadOut):
    """``trainable``, ``signature``, ``parameters`` and ``macs`` are null until the inspection found them."""

    trainable: bool | None
    signature: Signature | None
    parameters: int | None
    macs: int | None
    origin: Origin | None

    @classmethod
    def of(cls, row: ModelRow) -> Self:
        facts = row.facts or {}
        found = {name: facts.get(name) for name in ("trainable", "signature", "parameters", "macs")}
        return cls.model_validate({**_columns(row, _UploadOut), **found, "origin": row.origin})


class ModelFromArtifact(Exact):
    """A job's result that is to be a model of its own."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    artifact_id: str = Field(description="An artifact of the kind `model`, in a format that is taken for models.")


class ModelFromUpload(Exact):
    """A resumable upload that has come to its end and is to be a model."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    upload_id: str
    format: ModelFormat | None = Field(None, description="What the file must be.")


class DatasetFromUpload(Exact):
    """A resumable upload that has come to its end and is to be a data set."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    upload_id: str
    format: DatasetFormat | None = Field(None, description="What the file must be.")
    preprocessing: Preprocessing | None = Field(None, description="How images become rows.")


class UploadOut(BaseModel):
    """How far a resumable upload has come; ``metadata`` is what its client sent along."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    size_bytes: int
    offset_bytes: int
    metadata: dict[str, str]
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, row: UploadRow) -> Self:
        shown = {name: getattr(row, name) for name in cls.model_fields if name != "metadata"}
        return cls(**shown, metadata=parse_details(row.details))


class LayersOut(Items[Layer]):
    """Every layer with weights, in the order of execution."""


class DatasetOut(_UploadOut):
    """``splits``, ``fields``, ``classes``, ``class_names`` and ``labels`` are empty until the inspection found them."""

    splits: dict[str, SplitFacts]
    fields_: tuple[TensorSpec, ...] = Field(serialization_alias="fields")
    classes: int | None
    class_names: tuple[str, ...] | None
    labels: LabelFacts | None
    preprocessing: Preprocessing | None

    @classmethod
    def of(cls, row: DatasetRow) -> Self:
        facts = DatasetFacts.model_validate(row.facts) if row.facts else None
        return cls.model_validate(
            {
                **_columns(row, _UploadOut),
                "splits": facts.splits if facts else {},
                "fields_": facts.fields if facts else (),
                "classes": facts.classes if facts else None,
                "class_names": facts.class_names if facts else None,
                "labels": facts.labels if facts else None,
                "preprocessing": row.preprocessing,
            }
        )


def _columns(row: ModelRow | DatasetRow, schema: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in schema.model_fields}
