"""What webhooks are sent: due, underway under a lease, and ended."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session

from app.db.paging import page
from app.db.tables import DeliveryRow, WebhookRow
from app.domain.webhook import DeliveryError, DeliveryState

_UNSYNCHRONIZED = {"synchronize_session": False}


def get(session: Session, webhook_id: str, delivery_id: str) -> DeliveryRow | None:
    query = select(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.webhook_id == webhook_id)
    return session.scalar(query)


def get_held(session: Session, webhook_id: str, delivery_id: str) -> DeliveryRow | None:
    """Get a delivery and hold it until the transaction ends."""
    query = select(DeliveryRow).where(DeliveryRow.id == delivery_id, DeliveryRow.webhook_id == webhook_id)
    return session.scalar(query.with_for_update())


def listed(
    session: Session, webhook_id: str, *, state: str | None, before: str | None, limit: int
) -> Sequence[DeliveryRow]:
    query = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id)
    if state is not None:
        query = query.where(DeliveryRow.state == state)
    return page(session, query, DeliveryRow.id, before=before, limit=limit)


def send_again(session: Session, row: DeliveryRow, now: datetime, give_up_at: datetime) -> None:
    """Make a delivery due, whether it has ended or waits."""
    row.state, row.due_at, row.give_up_at = DeliveryState.PENDING, now, give_up_at
    row.ended_at = row.response_status = row.error = None
    session.flush()


def due(
    session: Session, now: datetime, *, but: Collection[str], not_of: Collection[str], limit: int
) -> Sequence[WebhookRow]:
    """Read webhooks that something is due to, those that do not fail first and by lot.

    Each costs one look into an index, however much is due to it. ``but`` are webhooks and ``not_of`` projects that
    have all that they may underway.
    """
    waiting = exists().where(DeliveryRow.webhook_id == WebhookRow.id, DeliveryRow.due_at <= now)
    query = select(WebhookRow).where(WebhookRow.disabled_at.is_(None), waiting)
    query = query.where(WebhookRow.id.not_in(but), WebhookRow.project_id.not_in(not_of))
    return session.scalars(query.order_by(WebhookRow.failing_since.is_not(None), func.random()).limit(limit)).all()


def claim(session: Session, webhook_id: str, now: datetime, until: datetime, limit: int) -> Sequence[DeliveryRow]:
    """Take what has been due to a webhook for longest; each counts as an attempt, lost where it is not settled."""
    query = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id, DeliveryRow.due_at <= now)
    rows = session.scalars(query.order_by(DeliveryRow.due_at).limit(limit).with_for_update(skip_locked=True)).all()
    for row in rows:
        row.attempts, row.attempted_at, row.due_at = row.attempts + 1, now, until
    session.flush()
    return rows


def settle(
    session: Session,
    row: DeliveryRow,
    status: int | None,
    error: DeliveryError | None,
    *,
    state: DeliveryState,
    due_at: datetime | None,
    now: datetime,
) -> bool:
    """Write down what an attempt came to; false where another has been made since."""
    values: dict[str, Any] = {
        "state": state,
        "due_at": due_at,
        "response_status": status,
        "error": error,
        "ended_at": None if state is DeliveryState.PENDING else now,
    }
    own = (DeliveryRow.id == row.id, DeliveryRow.attempts == row.attempts, DeliveryRow.state == DeliveryState.PENDING)
    statement = update(DeliveryRow).where(*own).values(**values).returning(DeliveryRow.id)
    return session.scalar(statement.execution_options(**_UNSYNCHRONIZED)) is not None


def note_success(session: Session, webhook_id: str) -> None:
    statement = update(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.failing_since.is_not(None))
    session.execute(statement.values(failing_since=None).execution_options(**_UNSYNCHRONIZED))


def note_failure(session: Session, webhook_id: str, now: datetime) -> datetime | None:
    """Tell since when a webhook has failed, which may be now; null where it is gone."""
    statement = update(WebhookRow).where(WebhookRow.id == webhook_id)
    statement = statement.values(failing_since=func.coalesce(WebhookRow.failing_since, now))
    returned = statement.returning(WebhookRow.failing_since).execution_options(**_UNSYNCHRONIZED)
    return session.scalar(returned)


def disable(session: Session, webhook_id: str, now: datetime) -> None:
    statement = update(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.disabled_at.is_(None))
    session.execute(statement.values(disabled_at=now).execution_options(**_UNSYNCHRONIZED))


def oldest(session: Session) -> str | None:
    return session.scalar(select(func.min(DeliveryRow.id)))


def clear(session: Session, before_id: str) -> int:
    """Forget deliveries that were made before an id."""
    statement = delete(DeliveryRow).where(DeliveryRow.id < before_id).returning(DeliveryRow.id)
    return len(session.scalars(statement.execution_options(**_UNSYNCHRONIZED)).all())
