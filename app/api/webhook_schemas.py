"""The bodies of ``/webhooks``."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, HttpUrl

from app.db.tables import WebhookRow
from app.domain.exact import Exact
from app.domain.webhook import DeliveryError, DeliveryState, WebhookEvent
from app.services.webhooks import DeliveryView

LONGEST_URL = 2000


def _short_enough(url: Any) -> Any:
    if isinstance(url, str) and len(url) > LONGEST_URL:
        raise ValueError(f"A URL has {LONGEST_URL} characters at most")
    return url


class WebhookIn(Exact):
    """Where to send, and what to tell of."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[
        HttpUrl,
        # As it is sent: what is kept may be longer, by a slash and by the escapes of what is not ASCII.
        BeforeValidator(_short_enough),
        Field(
            description="`http` or `https`, without a password and a fragment.",
            json_schema_extra={"maxLength": LONGEST_URL},
        ),
    ]
    events: Annotated[list[WebhookEvent], Field(min_length=1, max_length=16)]


class WebhookOut(BaseModel):
    """A webhook without its secret.

    ``failing_since`` is the first attempt that failed since the last that did not. Nothing is sent once it is disabled.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    url: str
    events: list[WebhookEvent]
    created_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None

    @classmethod
    def of(cls, row: WebhookRow) -> Self:
        return cls.model_validate(row)


class WebhookMade(WebhookOut):
    """A webhook with its secret."""

    secret: str | None = Field(
        description="`whsec_…`, shown this once: verifies what is sent, by Standard Webhooks. Null in a replay."
    )


class DeliveryOut(BaseModel):
    """An event on its way to a webhook, by the id that its receiver sees as ``webhook-id``.

    ``response_status`` and ``error`` are the last attempt's; ``next_attempt_at`` is null once there is none to come, as
    while the webhook is disabled.
    """

    model_config = ConfigDict(from_attributes=True)

    id: str
    webhook_id: str
    event: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    attempted_at: datetime | None
    next_attempt_at: datetime | None
    ended_at: datetime | None
    response_status: int | None
    error: DeliveryError | None

    @classmethod
    def of(cls, view: DeliveryView) -> Self:
        shown = {name: getattr(view.row, name) for name in cls.model_fields if name != "next_attempt_at"}
        return cls.model_validate({**shown, "next_attempt_at": view.next_attempt_at})


class DeliveryWhole(DeliveryOut):
    """A delivery with what is sent."""

    body: dict[str, Any]
