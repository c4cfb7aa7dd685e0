"""``/webhooks``: addresses that are told how jobs and inspections ended, and what they were sent."""

from fastapi import APIRouter, Request, Response

from app.api.answering import Answering
from app.api.deps import (
    DEFAULT_LIMIT,
    Cursor,
    JsonBody,
    Limit,
    PartsDep,
    Reader,
    Reading,
    Writer,
    Writing,
    checked_cursor,
    shown_once,
)
from app.api.schemas import Page
from app.api.webhook_schemas import DeliveryOut, DeliveryWhole, WebhookIn, WebhookMade, WebhookOut
from app.domain.ids import Prefix
from app.domain.webhook import DeliveryState
from app.services import webhooks

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=Answering)

_RETRY_AFTER_SECONDS = "2"


@router.post("", status_code=201)
def create_webhook(
    request: Request,
    response: Response,
    parts: PartsDep,
    session: Writing,
    caller: Writer,
    _: JsonBody,
    asked: WebhookIn,
) -> WebhookMade:
    """Have an address told of events; the secret that signs what is sent is in this answer alone."""
    private = parts.settings.webhook_private_addresses
    row = webhooks.make(session, caller, str(asked.url), asked.events, private=private)
    shown_once(response)
    response.headers["Location"] = f"{request.url.path}/{row.id}"
    return WebhookMade.of(row)


@router.get("")
def list_webhooks(
    session: Reading, caller: Reader, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[WebhookOut]:
    """List webhooks, newest first."""
    before = checked_cursor(Prefix.WEBHOOK, cursor)
    rows = webhooks.list_page(session, caller.project_id, before=before, limit=limit + 1)
    return Page.of(rows, limit, WebhookOut.of)


@router.get("/{webhook_id}")
def get_webhook(session: Reading, caller: Reader, webhook_id: str) -> WebhookOut:
    """Show a webhook, never its secret."""
    return WebhookOut.of(webhooks.get(session, caller.project_id, webhook_id))


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(session: Writing, caller: Writer, webhook_id: str) -> None:
    """Remove a webhook with its log; what has not been delivered never is."""
    webhooks.remove(session, caller, webhook_id)


@router.post("/{webhook_id}:rotate")
def rotate_webhook(response: Response, session: Writing, caller: Writer, webhook_id: str) -> WebhookMade:
    """Give a webhook another secret; for 24 hours both sign, so that the receiver may change over at leisure."""
    row = webhooks.rotate(session, caller, webhook_id)
    shown_once(response)
    return WebhookMade.of(row)


@router.post("/{webhook_id}:ping", status_code=202)
def ping_webhook(
    request: Request, response: Response, session: Writing, caller: Writer, webhook_id: str
) -> DeliveryOut:
    """Send an event `ping`, to try the receiver out."""
    view = webhooks.ping(session, caller.project_id, webhook_id)
    _underway(request, response, webhook_id, view.row.id)
    return DeliveryOut.of(view)


@router.post("/{webhook_id}:enable")
def enable_webhook(session: Writing, caller: Writer, webhook_id: str) -> WebhookOut:
    """Send again to a webhook that was disabled, after nothing had reached it for a day or it answered 410."""
    return WebhookOut.of(webhooks.enable(session, caller.project_id, webhook_id))


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    session: Reading,
    caller: Reader,
    webhook_id: str,
    state: DeliveryState | None = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[DeliveryOut]:
    """List what a webhook was sent or is to be, newest first."""
    before = checked_cursor(Prefix.DELIVERY, cursor)
    views = webhooks.list_deliveries(
        session, caller.project_id, webhook_id, state=state, before=before, limit=limit + 1
    )
    return Page.of(views, limit, DeliveryOut.of)


@router.get("/{webhook_id}/deliveries/{delivery_id}")
def get_delivery(session: Reading, caller: Reader, webhook_id: str, delivery_id: str) -> DeliveryWhole:
    """Show a delivery with its body."""
    return DeliveryWhole.of(webhooks.delivery(session, caller.project_id, webhook_id, delivery_id))


@router.post("/{webhook_id}/deliveries/{delivery_id}:redeliver", status_code=202)
def redeliver(
    request: Request, response: Response, session: Writing, caller: Writer, webhook_id: str, delivery_id: str
) -> DeliveryOut:
    """Send something once more, whether it arrived, was given up or waits; its `webhook-id` stays the same."""
    view = webhooks.redeliver(session, caller.project_id, webhook_id, delivery_id)
    _underway(request, response, webhook_id, delivery_id)
    return DeliveryOut.of(view)


def _underway(request: Request, response: Response, webhook_id: str, delivery_id: str) -> None:
    root = request.url.path.partition("/webhooks/")[0]
    response.headers["Location"] = f"{root}/webhooks/{webhook_id}/deliveries/{delivery_id}"
    response.headers["Retry-After"] = _RETRY_AFTER_SECONDS
