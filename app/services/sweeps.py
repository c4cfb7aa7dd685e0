"""Sweeps: started, moved on as their jobs end, cancelled and removed.

Nobody waits in memory: what to do next is read from the sweep's jobs, in the housekeeper's rounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db import jobs as jobs_table
from app.db import models, projects, sweeps
from app.db.engine import Sessions
from app.db.tables import JobRow, SweepRow
from app.domain.auto_space import auto_space
from app.domain.errors import (
    ClientError,
    Conflict,
    FieldError,
    Limited,
    NotFound,
    NotReady,
    NoTrialSucceeded,
    SweepEnded,
    ValidationFailed,
    WinnowError,
)
from app.domain.faults import refusal, told
from app.domain.ids import Prefix, is_id, new_id
from app.domain.job import JobSpec, JobState
from app.domain.model import ModelFacts
from app.domain.sweep import (
    UNDERWAY,
    Draw,
    Recipe,
    Scored,
    SweepSpec,
    choices_of,
    draw,
    draw_near,
    fill,
    range_faults,
    ranges_of,
)
from app.services import audit, comparisons, jobs
from app.services.callers import Caller, hold_open
from app.services.jobs import Trial
from app.services.trials import best_of, score

_ATTEMPTS = 50
"""Draws of which each may be one that was tried, or that is refused, before the space counts as used up."""

_RECIPE = "/recipe"
Template = Sequence[Mapping[str, Any]]
Templates = Sequence[Template]
log = structlog.get_logger()


@dataclass(frozen=True)
class SweepView:
    """A sweep with its trials, and those of them that no other beats."""

    row: SweepRow
    trials: Sequence[JobRow]
    pareto_front: tuple[str, ...]


def submit(session: Session, project_id: str, spec: SweepSpec, now: datetime, *, limit: int | None = None) -> SweepRow:
    """Start a sweep with its first jobs.

    Raises:
        ValidationFailed and what a job is refused for: a recipe at an end of its ranges.
    """
    hold_open(session, project_id)
    templates, ready = _templates(session, project_id, spec), set[str]()
    for place, template in enumerate(templates):
        with _pointed(f"/space/recipes/{place}" if spec.space != "auto" else "/space"):
            _check_ends(session, project_id, spec, template, ready)
    row = SweepRow(
        id=new_id(Prefix.SWEEP),
        project_id=project_id,
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        state="running",
        created_at=now,
    )
    sweeps.add(session, row)
    _launch(session, row, spec, (), limit)
    return row


def find(session: Session, project_id: str, sweep_id: str) -> SweepRow:
    """Get the row of a sweep of this project. Raises NotFound."""
    row = sweeps.get(session, project_id, sweep_id) if is_id(Prefix.SWEEP, sweep_id) else None
    if row is None:
        raise NotFound(f"There is no sweep {sweep_id!r}.")
    return row


def get(session: Session, project_id: str, sweep_id: str) -> SweepView:
    row = find(session, project_id, sweep_id)
    trials = sweeps.trials(session, project_id, sweep_id)
    return SweepView(row, trials, comparisons.front(trials))


def list_page(
    session: Session, project_id: str, *, state: str | None, before: str | None, limit: int
) -> Sequence[SweepRow]:
    return sweeps.listed(session, project_id, state=state, before=before, limit=limit)


def cancel(session: Session, by: Caller, sweep_id: str, now: datetime) -> SweepRow:
    """Cancel the jobs of a sweep that are underway, and start no more; the best so far is kept. Raises SweepEnded."""
    projects.lock(session, by.project_id)
    row = find(session, by.project_id, sweep_id)
    if row.state not in UNDERWAY:
        raise SweepEnded(f"The sweep has already ended: it is {row.state}.")
    row.state = "cancelling"
    _cancel(session, sweeps.trials(session, by.project_id, sweep_id), now)
    audit.record(session, by, "sweep.cancelled", row.id, project_id=row.project_id)
    _settle(session, row, SweepSpec.model_validate(row.spec), now, more=False)
    return row


def remove(session: Session, by: Caller, sweep_id: str) -> None:
    """Delete a sweep that has ended; its jobs stay. Raises Conflict."""
    projects.lock(session, by.project_id)
    row = find(session, by.project_id, sweep_id)
    if row.state in UNDERWAY:
        raise Conflict(f"The sweep is {row.state}.", hint="Cancel it first.")
    sweeps.delete(session, row)
    audit.record(session, by, "sweep.deleted", sweep_id, project_id=row.project_id)


def advance(readers: Sessions, sessions: Sessions, now: datetime, *, limit: int | None = None) -> int:
    """Move on every sweep that is underway; return how many jobs were started."""
    with readers() as session:
        due = sweeps.underway(session)
    started = 0
    for project_id, sweep_id in due:
        try:
            with sessions.begin() as session:
                # Held, so that of housekeepers side by side each sees what the other has started.
                projects.lock(session, project_id)
                row = sweeps.get(session, project_id, sweep_id)
                if row is not None and row.state in UNDERWAY:
                    started += _advance(session, row, now, limit)
        except Exception as error:  # noqa: BLE001  one that fails must not hold up the others
            log.warning("sweep_failing", sweep_id=sweep_id, error=str(error))
    return started


def cancel_all(session: Session, project_id: str, now: datetime) -> None:
    """Cancel whatever of a project is queued, runs or would be started; it ends by itself, and nobody is asked."""
    sweeps.cancel_all(session, project_id)
    for job_id in jobs_table.active(session, project_id):
        jobs_table.cancel(session, job_id, now)


def _advance(session: Session, row: SweepRow, now: datetime, limit: int | None) -> int:
    spec, before, more = SweepSpec.model_validate(row.spec), row.launched, False
    trials = sweeps.trials(session, row.project_id, row.id)
    if row.state == "running" and _is_over(spec, trials, now):
        _cancel(session, trials, now)
    elif row.state == "running":
        try:
            more = _launch(session, row, spec, trials, limit)
        except WinnowError as error:  # its model or data set is gone
            log.warning("sweep_cannot_go_on", sweep_id=row.id, error=error.detail)
    _settle(session, row, spec, now, more=more)
    return row.launched - before


def _is_over(spec: SweepSpec, trials: Sequence[JobRow], now: datetime) -> bool:
    started = [job.started_at for job in trials if job.started_at is not None]
    seconds = spec.budget.seconds
    return seconds is not None and bool(started) and now >= min(started) + timedelta(seconds=seconds)


def _cancel(session: Session, trials: Sequence[JobRow], now: datetime) -> None:
    for job in trials:
        if not JobState(job.state).ended:
            jobs_table.cancel(session, job.id, now)


def _settle(session: Session, row: SweepRow, spec: SweepSpec, now: datetime, *, more: bool) -> None:
    """Name the best so far, and end the sweep where no job is underway and no more are to come."""
    trials = sweeps.trials(session, row.project_id, row.id)
    row.best_job_id = best = best_of(spec, trials)
    if more or _count_active(trials):
        return
    row.ended_at = now
    if row.state == "cancelling":
        row.state = "cancelled"
    elif best is not None:
        row.state = "succeeded"
    else:
        row.state = "failed"
        row.failure = NoTrialSucceeded(_told(trials), hint=_HINT).failure().model_dump(mode="json", by_alias=True)
    session.flush()


def _count_active(trials: Sequence[JobRow]) -> int:
    return sum(not JobState(job.state).ended for job in trials)


_HINT = "Look at the failures of the trials; allow a larger drop, gentler ranges, or more trials."


def _told(trials: Sequence[JobRow]) -> str:
    """Count the trials by what became of them."""
    ends = [(job.failure or {}).get("code", job.state) for job in trials]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    return f"Of {len(trials)} trials none succeeded: {counts}." if trials else "No trial could be started."


def _templates(session: Session, project_id: str, spec: SweepSpec) -> Templates:
    """Give the templates of a space; of ``auto`` those that a job could be made of."""
    if spec.space != "auto":
        faults = [
            FieldError(pointer=f"/space/recipes/{place}{fault.pointer}", message=fault.message)
            for place, template in enumerate(spec.space.recipes)
            for fault in range_faults(template)
        ]
        if faults:
            raise ValidationFailed(told(faults), errors=faults)
        return spec.space.recipes
    model = models.get_with_layers(session, project_id, spec.model_id) if is_id(Prefix.MODEL, spec.model_id) else None
    if model is None or model.facts is None:
        jobs.check(session, project_id, _job(spec, [{"method": "quantize", "scheme": "dynamic"}]))  # says why
        return ()
    facts = ModelFacts.model_validate({**model.facts, "layers": model.layers})
    refused, found = None, []
    for template in auto_space(facts, spec.objective.minimize):
        try:
            jobs.check(session, project_id, _job(spec, fill(template, [0.0] * len(ranges_of(template)))))
        except WinnowError as error:
            refused = refused or error
        else:
            found.append(template)
    if not found:
        raise refused or ValidationFailed(
            f"auto finds nothing that makes {spec.objective.minimize} of this model less."
        )
    return found


def _check_ends(session: Session, project_id: str, spec: SweepSpec, template: Template, ready: set[str]) -> None:
    """Refuse a template that no job can be made of at either end of its ranges, or with one of its choices."""
    count = len(ranges_of(template))
    for point in ((0.0,) * count, (1.0,) * count, *choices_of(template)):
        jobs.check(session, project_id, _job(spec, fill(template, point)), ready=ready)


@contextmanager
def _pointed(pointer: str) -> Iterator[None]:
    """Let what a job is refused for point into the space of the sweep."""
    try:
        yield
    except WinnowError as error:
        errors = tuple(
            FieldError(pointer=pointer + it.pointer.removeprefix(_RECIPE), message=it.message)
            if it.pointer.startswith(_RECIPE)
            else it
            for it in error.errors
        )
        for before, after in zip(error.errors, errors, strict=True):
            error.detail = error.detail.replace(before.pointer, after.pointer)
        error.errors = errors
        raise


def _job(spec: SweepSpec, recipe: Recipe) -> JobSpec:
    """Make the job that tries a recipe. Raises ValidationFailed where it cannot be read."""
    shared = spec.model_dump(exclude={"objective", "space", "budget", "parallel"})
    objective = spec.objective.model_dump(exclude={"minimize"})
    payload = {**shared, "objective": objective, "recipe": recipe}
    try:
        return JobSpec.model_validate(payload)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False), payload) from None


def _launch(session: Session, row: SweepRow, spec: SweepSpec, trials: Sequence[JobRow], limit: int | None) -> bool:
    """Start jobs, as many as may be underway at a time; tell whether more are to come.

    Raises Limited where the project has no room for the first.
    """
    active = _count_active(trials)
    if active >= spec.parallel:
        return True
    templates = _templates(session, row.project_id, spec)
    tried = [job.spec["recipe"] for job in trials]
    scored = [Scored(_draw(job), score(spec, job)) for job in trials if _is_scored(job)]
    while active < spec.parallel and row.launched < spec.budget.trials:
        try:
            recipe, refused = _launch_one(session, row, spec, templates, scored, tried, limit)
        except Limited:
            if not row.launched:
                raise
            return True  # another round will find more room, and draw the same again
        if recipe is not None or not active:
            # While jobs are underway whoever finds nothing more draws the same again in each round: it counts once.
            _note_refused(row, refused)
        if recipe is None:
            return False
        tried.append(recipe)
        row.launched += 1
        active += 1
    return row.launched < spec.budget.trials


def _launch_one(
    session: Session,
    row: SweepRow,
    spec: SweepSpec,
    templates: Templates,
    scored: Sequence[Scored],
    tried: Sequence[Any],
    limit: int | None,
) -> tuple[Any, Sequence[tuple[ClientError, Recipe]]]:
    """Start a job whose recipe was not tried; give the recipe, null where none is found, and what was refused."""
    refused: list[tuple[ClientError, Recipe]] = []
    near = bool(scored) and row.launched >= spec.budget.trials / 2
    for attempt in range(_ATTEMPTS):
        drawn = (
            draw_near(scored, spec.seed, row.launched, attempt)
            if near
            else draw(templates, spec.seed, row.launched + attempt, attempt)
        )
        place = {"number": row.launched, "template": drawn.template, "point": list(drawn.point)}
        filled = fill(templates[drawn.template], drawn.point)
        try:
            job = _job(spec, filled)
            recipe = job.model_dump(mode="json")["recipe"]
            if recipe not in tried:
                jobs.submit(session, row.project_id, job, limit=limit, trial=Trial(row.id, place))
                break
        except (Limited, NotFound, NotReady):
            raise
        except ClientError as error:
            refused.append((error, filled))
    else:
        recipe = None
    return recipe, refused


def _note_refused(row: SweepRow, refused: Sequence[tuple[ClientError, Recipe]]) -> None:
    """Count the draws that made no job by what they were refused for, and keep the first of each."""
    noted = {code: dict(found) for code, found in (row.refused or {}).items()}
    for error, recipe in refused:
        found = noted.setdefault(error.code, {"count": 0, "detail": error.detail, "recipe": recipe})
        found["count"] += 1
    row.refused = noted or None


def _draw(job: JobRow) -> Draw:
    place = job.trial or {}
    return Draw(place["template"], tuple(place["point"]))


def _is_scored(job: JobRow) -> bool:
    return job.trial is not None and bool(job.summary) and "metric_drop" in (job.summary or {})
