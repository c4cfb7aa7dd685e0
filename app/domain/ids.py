"""Object ids: a prefix that tells the kind and a ULID, so that ids sort by creation."""

import secrets
import time
from enum import StrEnum

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_LENGTH = 26
_RANDOM_BITS = 80


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
    AUDIT = "aud"
    REQUEST = "req"


def new_id(prefix: Prefix) -> str:
    """Make an id such as ``job_01J…``: 48 bits of milliseconds, then 80 random bits.

    Source: https://github.com/ulid/spec.
    """
    number = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    digits = (_CROCKFORD[(number >> shift) & 31] for shift in range(5 * (_ULID_LENGTH - 1), -1, -5))
    return f"{prefix.value}_{''.join(digits)}"


def is_id(prefix: Prefix, text: str) -> bool:
    """Tell whether ``text`` has the form of an id of this kind."""
    head, _, ulid = text.partition("_")
    return head == prefix.value and len(ulid) == _ULID_LENGTH and set(ulid) <= set(_CROCKFORD)
