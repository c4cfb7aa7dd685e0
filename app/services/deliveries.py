"""Deliveries taken up, signed and settled; the sending itself is ``app.posting``'s."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook

from app.db import deliveries
from app.db.engine import Sessions
from app.db.tables import DeliveryRow, WebhookRow
from app.domain.ids import Prefix, first_id
from app.domain.webhook import GIVEN_UP_AFTER, DeliveryError, DeliveryState, next_attempt
from app.posting import Outcome

_GONE = 410
_draw = random.SystemRandom()

log = structlog.get_logger()


@dataclass(frozen=True)
class Bounds:
    """Most attempts underway at once: in all, to what fails, of one project, to one webhook, to one that fails."""

    total: int = 64
    failing: int = 32
    project: int = 24
    webhook: int = 4
    failing_webhook: int = 1


@dataclass(frozen=True)
class Parcel:
    """An attempt that is underway."""

    webhook: WebhookRow
    delivery: DeliveryRow

    @property
    def failing(self) -> bool:
        return self.webhook.failing_since is not None

    def content(self) -> str:
        """Give the body, the same at every attempt."""
        return json.dumps(self.delivery.body, ensure_ascii=False, separators=(",", ":"))

    def headers(self, content: str, now: datetime) -> dict[str, str]:
        """Sign the body as Standard Webhooks has it; by both secrets for a day after a rotation."""
        secrets = [self.webhook.secret]
        if self.webhook.old_secret and self.webhook.old_secret_until and now < self.webhook.old_secret_until:
            secrets.append(self.webhook.old_secret)
        signatures = [Webhook(secret).sign(self.delivery.id, now, content) for secret in secrets]
        return {
            "webhook-id": self.delivery.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def take(
    readers: Sessions,
    sessions: Sessions,
    underway: Mapping[str, Parcel],
    bounds: Bounds,
    now: datetime,
    until: datetime,
) -> list[Parcel]:
    """Claim what is due, within bounds that keep a receiver that is slow or dead from delaying others."""
    free = bounds.total - len(underway)
    if free <= 0:
        return []
    webhooks = Counter(it.webhook.id for it in underway.values())
    projects = Counter(it.webhook.project_id for it in underway.values())
    failing = sum(it.failing for it in underway.values())
    full = [it.webhook.id for it in underway.values() if webhooks[it.webhook.id] >= _most(it.webhook, bounds)]
    busy = [name for name, count in projects.items() if count >= bounds.project]
    with readers() as session:
        rows = deliveries.due(session, now, but=full, not_of=busy, limit=free)
    if not rows:
        return []
    taken: list[Parcel] = []
    with sessions.begin() as session:
        for row in rows:
            room = [_most(row, bounds) - webhooks[row.id], bounds.project - projects[row.project_id], free - len(taken)]
            if row.failing_since is not None:
                room.append(bounds.failing - failing)
            if min(room) <= 0:
                continue
            found = deliveries.claim(session, row.id, now, until, min(room))
            taken += [Parcel(row, delivery) for delivery in found]
            projects[row.project_id] += len(found)
            failing += len(found) if row.failing_since is not None else 0
    return taken


def _most(webhook: WebhookRow, bounds: Bounds) -> int:
    return bounds.webhook if webhook.failing_since is None else bounds.failing_webhook


def settle(sessions: Sessions, parcel: Parcel, outcome: Outcome, now: datetime) -> None:
    """Write down what an attempt came to: delivered, to be tried again, or given up."""
    row = parcel.delivery
    with sessions.begin() as session:
        if outcome.error is None:
            state, due_at = DeliveryState.DELIVERED, None
        else:
            due_at = next_attempt(row.attempts, now, row.give_up_at, _draw)
            state = DeliveryState.PENDING if due_at is not None else DeliveryState.FAILED
        held = deliveries.settle(session, row, outcome.status, outcome.error, state=state, due_at=due_at, now=now)
        if held and outcome.error is None:
            deliveries.note_success(session, row.webhook_id)
        elif held:
            _note_failure(session, row, outcome, now, given_up=state is DeliveryState.FAILED)
    log.info(
        "webhook_attempt",
        webhook_id=row.webhook_id,
        delivery_id=row.id,
        attempt=row.attempts,
        status=outcome.status,
        error=outcome.error,
        state=state if held else "lost",
    )


def _note_failure(session: Session, row: DeliveryRow, outcome: Outcome, now: datetime, *, given_up: bool) -> None:
    """Disable a webhook that says it is gone for good, or that nothing has reached for as long as one is tried."""
    since = deliveries.note_failure(session, row.webhook_id, now)
    long = given_up and since is not None and since <= now - GIVEN_UP_AFTER
    if long or (outcome.error is DeliveryError.HTTP_STATUS and outcome.status == _GONE):
        deliveries.disable(session, row.webhook_id, now)
        log.warning("webhook_disabled", webhook_id=row.webhook_id, failing_since=str(since))


def forget(readers: Sessions, sessions: Sessions, days: float, now: datetime) -> int:
    """Clear the log of what is older than so many days; the write lock is taken only where there is something."""
    before = first_id(Prefix.DELIVERY, now - timedelta(days=days))
    with readers() as session:
        oldest = deliveries.oldest(session)
    if oldest is None or oldest >= before:
        return 0
    with sessions.begin() as session:
        return deliveries.clear(session, before)
