"""Webhooks, and the deliveries that tell them of events, written in the transaction of the event itself."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete as delete_from
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.paging import page
from app.db.tables import DatasetRow, DeliveryRow, JobRow, ModelRow, WebhookRow
from app.domain.ids import Prefix, new_id
from app.domain.job import JobState
from app.domain.model import ObjectState
from app.domain.webhook import GIVEN_UP_AFTER, DeliveryState, body, job_event, upload_event

_OF_JOB = ("id", "name", "state", "model_id", "dataset_id", "target", "labels", "attempt", "summary", "failure")
_TIMES = ("created_at", "started_at", "ended_at")
_OF_UPLOAD = ("id", "name", "state", "format", "size_bytes", "sha256", "problem")


def add(session: Session, row: WebhookRow) -> None:
    session.add(row)
    session.flush()


def get(session: Session, project_id: str, webhook_id: str) -> WebhookRow | None:
    query = select(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.project_id == project_id)
    return session.scalar(query)


def get_held(session: Session, project_id: str, webhook_id: str) -> WebhookRow | None:
    """Get a webhook and hold it until the transaction ends."""
    query = select(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.project_id == project_id)
    return session.scalar(query.with_for_update())


def listed(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[WebhookRow]:
    query = select(WebhookRow).where(WebhookRow.project_id == project_id)
    return page(session, query, WebhookRow.id, before=before, limit=limit)


def count(session: Session, project_id: str) -> int:
    return session.scalar(select(func.count()).where(WebhookRow.project_id == project_id)) or 0


def disable_all(session: Session, project_id: str, now: datetime) -> None:
    """Send nothing more to the webhooks of a project."""
    theirs = update(WebhookRow).where(WebhookRow.project_id == project_id, WebhookRow.disabled_at.is_(None))
    session.execute(theirs.values(disabled_at=now).execution_options(synchronize_session=False))


def delete(session: Session, row: WebhookRow) -> None:
    """Remove a webhook; what it was sent goes with it."""
    # First the deliveries, as an attempt that ends takes the rows in this order too.
    session.execute(delete_from(DeliveryRow).where(DeliveryRow.webhook_id == row.id))
    session.delete(row)
    session.flush()


def announce_job(session: Session, job_id: str, state: JobState, now: datetime) -> None:
    """Tell who is subscribed that a job has ended so."""
    told = _subscribed(session, JobRow, job_id, job_event(state))
    if not told:
        return
    row = session.get_one(JobRow, job_id, populate_existing=True)
    times = {name: _shown(getattr(row, name)) for name in _TIMES}
    _tell(session, told, job_event(state), {**{name: getattr(row, name) for name in _OF_JOB}, **times}, now)


def announce_upload(
    session: Session, kind: Literal["model", "dataset"], upload_id: str, state: ObjectState, now: datetime
) -> None:
    """Tell who is subscribed what the inspection of an upload came to."""
    table = ModelRow if kind == "model" else DatasetRow
    told = _subscribed(session, table, upload_id, upload_event(kind, state))
    if not told:
        return
    row = session.get_one(table, upload_id, populate_existing=True)
    _tell(session, told, upload_event(kind, state), {name: getattr(row, name) for name in _OF_UPLOAD}, now)


def tell(session: Session, row: WebhookRow, event: str, data: dict[str, Any], now: datetime) -> DeliveryRow:
    """Write down what one webhook is to be told."""
    delivery = DeliveryRow(
        id=new_id(Prefix.DELIVERY),
        webhook_id=row.id,
        event=event,
        body=body(event, now, data),
        state=DeliveryState.PENDING,
        created_at=now,
        due_at=now,
        give_up_at=now + GIVEN_UP_AFTER,
    )
    session.add(delivery)
    session.flush()
    return delivery


def _tell(session: Session, told: Sequence[WebhookRow], event: str, data: dict[str, Any], now: datetime) -> None:
    for row in told:
        tell(session, row, event, data, now)


def _subscribed(
    session: Session, table: type[JobRow | ModelRow | DatasetRow], object_id: str, event: str
) -> list[WebhookRow]:
    query = select(WebhookRow).join(table, table.project_id == WebhookRow.project_id)
    query = query.where(table.id == object_id, WebhookRow.disabled_at.is_(None))
    # Held, so that none is removed before the delivery that refers to it is there.
    rows = session.scalars(query.with_for_update(read=True, key_share=True, of=WebhookRow))
    return [row for row in rows if event in row.events]


def _shown(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%dT%H:%M:%S.%fZ}" if time is not None else None
