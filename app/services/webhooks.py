"""Webhooks: made, listed, tried out, rotated, enabled and removed. A secret is shown once, when it is made."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from app.db import deliveries, projects, webhooks
from app.db.tables import DeliveryRow, WebhookRow
from app.domain.errors import AddressRefused, Conflict, FieldError, NotFound, TooManyWebhooks, ValidationFailed
from app.domain.ids import Prefix, is_id, new_id
from app.domain.webhook import GIVEN_UP_AFTER, PING, DeliveryState, is_public
from app.services import audit
from app.services.callers import Caller, hold_open

MOST = 20
"""Webhooks of one project."""
OLD_SECRET_KEPT = timedelta(hours=24)
_SECRET_BYTES = 24


@dataclass(frozen=True)
class DeliveryView:
    """A delivery, and when it is tried next; null where it is not."""

    row: DeliveryRow
    next_attempt_at: datetime | None


def make(session: Session, by: Caller, url: str, events: Sequence[str], *, private: bool) -> WebhookRow:
    """Make a webhook with a secret of its own. Raises AddressRefused, ValidationFailed or TooManyWebhooks."""
    check_url(url, private=private)
    hold_open(session, by.project_id)
    if webhooks.count(session, by.project_id) >= MOST:
        raise TooManyWebhooks(f"The limit is {MOST} webhooks a project.", hint="Delete one.")
    row = WebhookRow(
        id=new_id(Prefix.WEBHOOK),
        project_id=by.project_id,
        url=url,
        events=list(dict.fromkeys(events)),
        secret=_new_secret(),
        created_at=datetime.now(UTC),
    )
    webhooks.add(session, row)
    audit.record(session, by, "webhook.created", row.id, project_id=row.project_id)
    return row


def check_url(url: str, *, private: bool) -> None:
    """Refuse what can be told from the text alone; a name's addresses are looked at whenever something is sent."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise _invalid("A URL with a name or a password in it would be shown in lists: tell senders by the signature.")
    if "#" in url:
        raise _invalid("A fragment is never sent.")
    host = (parts.hostname or "").rstrip(".").lower()
    literal = ":" in host or host.replace(".", "").isdigit()
    local = host == "localhost" or host.endswith(".localhost")
    if not private and (local or (literal and not is_public(host))):
        message = f"{host} is no address of the open internet."
        raise AddressRefused(message, errors=[FieldError(pointer="/url", message=message)])


def get(session: Session, project_id: str, webhook_id: str) -> WebhookRow:
    row = webhooks.get(session, project_id, webhook_id) if is_id(Prefix.WEBHOOK, webhook_id) else None
    return _found(row, webhook_id)


def list_page(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[WebhookRow]:
    return webhooks.listed(session, project_id, before=before, limit=limit)


def remove(session: Session, by: Caller, webhook_id: str) -> None:
    # Held, as the deliveries that go first are taken in no order: of two removals side by side each would wait.
    projects.lock(session, by.project_id)
    row = get(session, by.project_id, webhook_id)
    webhooks.delete(session, row)
    audit.record(session, by, "webhook.deleted", row.id, project_id=row.project_id)


def rotate(session: Session, by: Caller, webhook_id: str) -> WebhookRow:
    """Give a webhook another secret; for a day what it is sent is signed with the one before too."""
    row = _held(session, by.project_id, webhook_id)
    row.old_secret, row.old_secret_until = row.secret, datetime.now(UTC) + OLD_SECRET_KEPT
    row.secret = _new_secret()
    session.flush()
    audit.record(session, by, "webhook.rotated", row.id, project_id=row.project_id)
    return row


def enable(session: Session, project_id: str, webhook_id: str) -> WebhookRow:
    """Send again to a webhook that was disabled, first what waits for it."""
    row = _held(session, project_id, webhook_id)
    row.disabled_at = row.failing_since = None
    session.flush()
    return row


def ping(session: Session, project_id: str, webhook_id: str) -> DeliveryView:
    """Send a webhook something that tells of nothing, to try it out. Raises Conflict where it is disabled."""
    row = _enabled(_held(session, project_id, webhook_id))
    return _view(row, webhooks.tell(session, row, PING, {"webhook_id": row.id}, datetime.now(UTC)))


def delivery(session: Session, project_id: str, webhook_id: str, delivery_id: str) -> DeliveryView:
    webhook = get(session, project_id, webhook_id)
    row = deliveries.get(session, webhook_id, delivery_id) if is_id(Prefix.DELIVERY, delivery_id) else None
    return _view(webhook, _delivery(row, delivery_id))


def list_deliveries(
    session: Session,
    project_id: str,
    webhook_id: str,
    *,
    state: DeliveryState | None,
    before: str | None,
    limit: int,
) -> Sequence[DeliveryView]:
    webhook = get(session, project_id, webhook_id)
    rows = deliveries.listed(session, webhook_id, state=state, before=before, limit=limit)
    return [_view(webhook, row) for row in rows]


def redeliver(session: Session, project_id: str, webhook_id: str, delivery_id: str) -> DeliveryView:
    """Send something once more, at once and then for as long as anything new. Raises Conflict where it is disabled."""
    webhook = get(session, project_id, webhook_id)
    row = deliveries.get_held(session, webhook_id, delivery_id) if is_id(Prefix.DELIVERY, delivery_id) else None
    row = _delivery(row, delivery_id)
    _enabled(webhook)
    now = datetime.now(UTC)
    deliveries.send_again(session, row, now, now + GIVEN_UP_AFTER)
    return _view(webhook, row)


def _view(webhook: WebhookRow, row: DeliveryRow) -> DeliveryView:
    """Show no attempt to come where nothing is sent; what waits is due again once the webhook is enabled."""
    return DeliveryView(row, row.due_at if webhook.disabled_at is None else None)


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def _invalid(message: str) -> ValidationFailed:
    return ValidationFailed(message, errors=[FieldError(pointer="/url", message=message)])


def _held(session: Session, project_id: str, webhook_id: str) -> WebhookRow:
    row = webhooks.get_held(session, project_id, webhook_id) if is_id(Prefix.WEBHOOK, webhook_id) else None
    return _found(row, webhook_id)


def _found(row: WebhookRow | None, webhook_id: str) -> WebhookRow:
    if row is None:
        raise NotFound(f"There is no webhook {webhook_id!r}.")
    return row


def _delivery(row: DeliveryRow | None, delivery_id: str) -> DeliveryRow:
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id!r} to this webhook.")
    return row


def _enabled(row: WebhookRow) -> WebhookRow:
    if row.disabled_at is not None:
        raise Conflict("The webhook is disabled: nothing is sent to it.", hint="Mend the receiver, then `:enable` it.")
    return row
