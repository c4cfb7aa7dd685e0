"""Object ids: a prefix that tells the kind and a ULID, so that ids sort by creation."""

import secrets
import threading
import time
from datetime import datetime
from enum import StrEnum

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_LENGTH = 26
_RANDOM_BITS = 80
_STEP_BITS = 64


class Prefix(StrEnum):
    """What an id names."""

    MODEL = "mdl"
    DATASET = "dat"
    UPLOAD = "upl"
    JOB = "job"
    ARTIFACT = "art"
    SWEEP = "swp"
    WEBHOOK = "whk"
    KEY = "key"
    PROJECT = "prj"
    DELIVERY = "dlv"
    AUDIT = "aud"
    REQUEST = "req"


class _Numbers:
    """Numbers that grow within one process, whatever the clock does."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def take(self) -> int:
        number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            # Within one millisecond each goes on from the one before: what one transaction writes keeps its order.
            if number >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
                number = self._last + 1 + secrets.randbits(_STEP_BITS)
            self._last = number
        return number


_numbers = _Numbers()


def new_id(prefix: Prefix) -> str:
    """Make an id such as ``job_01J…``: 48 bits of milliseconds, then 80 random bits; each sorts behind the last.

    Source: https://github.com/ulid/spec, monotonic, with random steps.
    """
    return f"{prefix.value}_{_digits(_numbers.take())}"


def id_pattern(prefix: Prefix) -> str:
    """Give the form of an id of this kind as a regular expression."""
    return f"^{prefix.value}_[{_CROCKFORD}]{{{_ULID_LENGTH}}}$"


def is_id(prefix: Prefix, text: str) -> bool:
    """Tell whether ``text`` has the form of an id of this kind."""
    head, _, ulid = text.partition("_")
    return head == prefix.value and len(ulid) == _ULID_LENGTH and set(ulid) <= set(_CROCKFORD)


def first_id(prefix: Prefix, moment: datetime) -> str:
    """Give an id that sorts before all that are made from a moment on, and behind all before it."""
    number = int(moment.timestamp() * 1000) << _RANDOM_BITS
    return f"{prefix.value}_{_digits(number)}"


def _digits(number: int) -> str:
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(5 * (_ULID_LENGTH - 1), -1, -5))
