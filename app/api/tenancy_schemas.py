"""The bodies of ``/projects``, ``/keys``, ``/audit`` and ``/usage``."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from app.db.tables import AuditRow, KeyRow, ProjectRow
from app.domain.exact import Exact
from app.domain.job import NameText
from app.services.audit import Action
from app.services.callers import Scope
from app.services.keys import NewKey


def _ahead(time: datetime) -> datetime:
    try:
        time = time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("There is no such time in UTC.") from error
    if time <= datetime.now(UTC):
        raise ValueError("A key cannot expire before it is made.")
    return time


class KeyIn(Exact):
    """What a new key may do, and until when; ``project_id`` is the operator's to give."""

    model_config = ConfigDict(extra="forbid")

    name: NameText
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] = ["read", "write"]  # noqa: RUF012  pydantic copies it
    expires_at: Annotated[AwareDatetime, AfterValidator(_ahead)] | None = None
    project_id: str | None = None


class KeyOut(BaseModel):
    """A key without its text."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    project_id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: KeyRow) -> Self:
        return cls.model_validate(row)


_TEXT = Field(description="The whole key, shown this once: what goes behind `Bearer`. Null in a replay.")


class KeyMade(KeyOut):
    """A key with its text."""

    key: str | None = _TEXT

    @classmethod
    def with_text(cls, made: NewKey) -> Self:
        return cls(**KeyOut.of(made.row).model_dump(), key=made.text)


class ProjectIn(Exact):
    model_config = ConfigDict(extra="forbid")

    name: NameText


class ProjectOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: ProjectRow) -> Self:
        return cls.model_validate(row)


class ProjectMade(ProjectOut):
    """A project with the text of its first key, whose scopes are all."""

    key: str | None = _TEXT

    @classmethod
    def with_text(cls, row: ProjectRow, made: NewKey) -> Self:
        return cls(**ProjectOut.of(row).model_dump(), key=made.text)


class AuditOut(BaseModel):
    """Something that was done; ``key_id`` is null where it was at the server's own command line."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    at: datetime
    key_id: str | None
    request_id: str | None
    action: Action
    object_id: str

    @classmethod
    def of(cls, row: AuditRow) -> Self:
        return cls.model_validate(row)


class UsageOut(BaseModel):
    """Jobs ever submitted, seconds that their attempts were on workers, and bytes stored now.

    An attempt counts when it ends, by the clock, as one second a second however many cores it has. A content counts
    once however many models, data sets and artifacts hold it.
    """

    model_config = ConfigDict(from_attributes=True)

    jobs: int
    cpu_seconds: float
    gpu_seconds: float
    stored_bytes: int
