"""Webhooks: what is told, how often it is tried, and which addresses it may be sent to."""

import ipaddress
import random
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from app.domain.job import JobState
from app.domain.model import ObjectState

WebhookEvent = Literal[
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.timed_out",
    "model.ready",
    "model.rejected",
    "dataset.ready",
    "dataset.rejected",
]
PING = "ping"
"""Sent when it is asked for, whatever the webhook is subscribed to."""

GIVEN_UP_AFTER = timedelta(hours=24)
_FIRST_DELAY = timedelta(seconds=10)
_LONGEST_DELAY = timedelta(hours=2)
_JITTER = 0.25


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveryError(StrEnum):
    """Why the last attempt came to nothing."""

    HTTP_STATUS = "http_status"
    REDIRECT = "redirect"
    ADDRESS_REFUSED = "address_refused"
    NAME_NOT_RESOLVED = "name_not_resolved"
    CONNECTION_FAILED = "connection_failed"
    TLS_FAILED = "tls_failed"
    TIMED_OUT = "timed_out"
    PROTOCOL_ERROR = "protocol_error"


def job_event(state: JobState) -> str:
    return f"job.{state}"


def upload_event(kind: Literal["model", "dataset"], state: ObjectState) -> str:
    return f"{kind}.{state}"


def body(event: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
    """Give what is sent, in the form of Standard Webhooks."""
    return {"type": event, "timestamp": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}", "data": data}


def next_attempt(attempts: int, now: datetime, give_up_at: datetime, draw: random.Random) -> datetime | None:
    """Say when to try again after so many attempts: twice as late each time, up to two hours, a quarter more or less.

    The last try is at ``give_up_at``; null once that has passed.
    """
    if now >= give_up_at:
        return None
    # The exponent is bounded before the power is taken.
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(attempts - 1, 20))
    return min(give_up_at, now + delay * draw.uniform(1 - _JITTER, 1 + _JITTER))


_RELAYS = ipaddress.ip_network("192.88.99.0/24")
"""Ways into IPv6 by 6to4 (RFC 7526), which Python counts as global."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open internet's, for itself and not by way of another."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip.is_site_local):
        return False
    if ip in _RELAYS:
        return False
    # Of IPv6, what lies outside 2000::/3 counts as reserved, the ways into IPv4 (64:ff9b::/96, ::/96) included.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)
