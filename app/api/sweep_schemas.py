"""The bodies of ``/sweeps``."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from app.db.tables import JobRow, SweepRow
from app.domain.errors import Failure
from app.domain.job import JobState
from app.domain.recipe import Recipe
from app.domain.sweep import SweepSpec, SweepState
from app.services.sweeps import SweepView


class SweepOut(SweepSpec):
    """What was asked, with every default, and how it stands. ``launched`` counts the jobs started."""

    model_config = ConfigDict(extra="ignore")

    id: str
    state: SweepState
    launched: int
    best_job_id: str | None
    failure: Failure | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, row: SweepRow) -> Self:
        names = ("id", "state", "launched", "best_job_id", "failure", "created_at", "ended_at")
        return cls.model_validate({**row.spec, **{name: getattr(row, name) for name in names}})


class TrialOut(BaseModel):
    """A job of a sweep; ``figures`` is its summary."""

    number: int
    job_id: str
    state: JobState
    recipe: Recipe
    figures: dict[str, Any] | None
    failure: Failure | None

    @classmethod
    def of(cls, row: JobRow) -> Self:
        return cls(
            number=(row.trial or {})["number"],
            job_id=row.id,
            state=JobState(row.state),
            recipe=row.spec["recipe"],
            figures=row.summary,
            failure=None if row.failure is None else Failure.model_validate(row.failure),
        )


class RefusedDraws(BaseModel):
    """How many draws made no job for the same reason; ``recipe`` and ``detail`` are of the first of them."""

    code: str
    count: int
    detail: str
    recipe: list[dict[str, Any]]


class SweepWhole(SweepOut):
    """A sweep with its trials, and the jobs of which none is beaten in metric, median latency and size by another.

    ``refused`` tells of recipes between the ends of its ranges that ``POST /jobs`` would not have taken: others were
    drawn in their place.
    """

    pareto_front: list[str]
    refused: list[RefusedDraws]
    trials: list[TrialOut]

    @classmethod
    def whole(cls, view: SweepView) -> Self:
        shown = SweepOut.of(view.row).model_dump(by_alias=True)
        trials = [TrialOut.of(row) for row in view.trials]
        refused = [{"code": code, **found} for code, found in (view.row.refused or {}).items()]
        return cls.model_validate({**shown, "pareto_front": view.pareto_front, "refused": refused, "trials": trials})
