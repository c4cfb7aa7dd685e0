"""What can go wrong, in one tree.

::

    winnow.Error
    ├── ConfigurationError      no key, an address that is none, a recipe that cannot be read
    ├── ConnectionFailed        the service cannot be reached, also after trying again
    ├── DamagedTransfer         bytes arrived that are not those that were sent
    ├── Rejected                an upload that the service looked into and refused
    ├── JobFailed               a job that did not succeed, where success was asked for
    └── ProblemError            the service refused a request: a problem (RFC 9457)
        ├── UserError           4xx
        │   ├── Unauthenticated, Forbidden, NotFound, Conflict
        │   ├── TooLarge, Invalid
        │   └── RateLimitedError
        └── InternalError       5xx
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class FieldFault:
    """One fault of a payload; ``pointer`` is a JSON pointer (RFC 6901) to its place."""

    pointer: str
    message: str


class Error(Exception):
    """Root of the tree. ``code`` is a stable slug, ``hint`` says what to do where something can be done."""

    def __init__(self, detail: str, *, code: str = "client_error", hint: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.detail} {self.hint}" if self.hint else self.detail


class ConfigurationError(Error):
    """The client does not know where to go, or as whom."""


class ConnectionFailed(Error):
    """The service cannot be reached."""


class DamagedTransfer(Error):
    """What arrived has another digest than what was sent."""


class Rejected(Error):
    """The service looked into an upload and refused it; ``object_id`` is the model's or data set's id."""

    def __init__(self, detail: str, *, code: str, hint: str | None, object_id: str) -> None:
        super().__init__(detail, code=code, hint=hint)
        self.object_id = object_id


class JobFailed(Error):
    """A job ended in another state than ``succeeded``."""

    def __init__(self, detail: str, *, code: str, hint: str | None, job_id: str, state: str) -> None:
        super().__init__(detail, code=code, hint=hint)
        self.job_id = job_id
        self.state = state


class ProblemError(Error):
    """The service answered with a problem; ``request_id`` finds it in the service's log."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str = "",
        errors: Sequence[FieldFault] = (),
        request_id: str | None = None,
        hint: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(detail, code=code, hint=hint)
        self.status = status
        self.title = title
        self.errors = tuple(errors)
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.code}: {super().__str__()}"


class UserError(ProblemError):
    """4xx: the caller can mend it."""


class Unauthenticated(UserError):
    pass


class Forbidden(UserError):
    pass


class NotFound(UserError):
    pass


class Conflict(UserError):
    pass


class TooLarge(UserError):
    pass


class Invalid(UserError):
    """What was asked makes no sense; ``errors`` point to the places."""


class RateLimitedError(UserError):
    """A limit of the project is reached, and was still reached after the tries that were allowed."""


class InternalError(ProblemError):
    """5xx: the service's own fault."""


_BY_STATUS: dict[int, type[ProblemError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Invalid,
    429: RateLimitedError,
}
_SERVER_ERROR = 500


def from_response(response: httpx.Response) -> ProblemError:
    """Read the problem in an answer whose body has been read; of what is no problem, all that it tells."""
    status = response.status_code
    error = _BY_STATUS.get(status, InternalError if status >= _SERVER_ERROR else UserError)
    body = _body(response)
    faults = [FieldFault(str(it.get("pointer", "")), str(it.get("message", ""))) for it in body.get("errors") or []]
    return error(
        status,
        str(body.get("code") or f"http_{status}"),
        str(body.get("detail") or f"The server answered {status} {response.reason_phrase}."),
        title=str(body.get("title") or ""),
        errors=faults,
        request_id=body.get("request_id") or response.headers.get("X-Request-ID"),
        hint=body.get("hint"),
        retry_after_seconds=retry_after(response),
    )


def retry_after(response: httpx.Response) -> float | None:
    """Read the header in its form of seconds; null where it has none."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isdecimal() else None


def _body(response: httpx.Response) -> dict[str, Any]:
    if "json" not in response.headers.get("Content-Type", ""):
        return {}
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
