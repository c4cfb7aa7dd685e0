"""What schemathesis is told of the service beside its OpenAPI document."""

import os
import re
import secrets
from datetime import UTC, datetime

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import MalformedJson

from app.api.deps import OFFSET_OCTETS
from app.services.idempotency import KEY_PATTERN
from tests.factories import npz, pt2

LONGEST_WAIT_SECONDS = 0.2
KEY_HEADER = "Idempotency-Key"
_OWN_KEY = os.environ["FUZZ_KEY_ID"]

# Files that are what they should be, beside any bytes: almost no bytes are.
schemathesis.openapi.media_type(
    "application/octet-stream", st.one_of(st.builds(pt2), st.builds(npz), st.binary(max_size=256))
)
# Without one that writes them, pieces of an upload are never sent.
schemathesis.serializer.alias(OFFSET_OCTETS, "application/octet-stream")
schemathesis.openapi.media_type(OFFSET_OCTETS, st.binary(max_size=256))


@schemathesis.hook
def before_call(context, case, kwargs):
    _wait_briefly(case)
    _spare_own_key(case)
    _replay_nothing(case)
    _expire_later(case)


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Let a range of a report be no JSON: it is a part of one."""
    return not (response.status_code == 206 and isinstance(failure, MalformedJson))


def _wait_briefly(case):
    """Let a wait be one, and no case take a minute."""
    try:
        wait = float((case.query or {}).get("wait"))
    except (TypeError, ValueError):
        return
    if LONGEST_WAIT_SECONDS < wait <= 60:
        case.query["wait"] = LONGEST_WAIT_SECONDS


def _spare_own_key(case):
    """Ask about another key than the one that all this is asked with: without it nothing would be tested any more."""
    if (case.path_parameters or {}).get("key_id") == _OWN_KEY:
        case.path_parameters["key_id"] = "key_01M8AM51RFPY4GHW9X9T46GGJP"


def _replay_nothing(case):
    """Send each payload under a key of its own, as the contract asks; cases are not told of each other's."""
    key = (case.headers or {}).get(KEY_HEADER)
    if isinstance(key, str) and re.fullmatch(KEY_PATTERN, key):
        case.headers[KEY_HEADER] = secrets.token_hex(8)


def _expire_later(case):
    """Let keys expire in time to come: no schema can say so."""
    given = case.body.get("expires_at") if isinstance(case.body, dict) else None
    if isinstance(given, str) and re.match(r"\d{4}-", given):
        try:
            time = datetime.fromisoformat(given.upper())
        except ValueError:
            return
        if time.tzinfo and time.year < 9998 and time <= datetime.now(UTC):
            case.body["expires_at"] = f"2999{given[4:]}"
