"""Requests that are tried again where that is safe and may help."""

import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import httpx

from winnow.config import Config
from winnow.errors import ConnectionFailed, ProblemError, from_response

API = "/api/v1/"
Body = Callable[[], bytes | Iterable[bytes]]
_AGAIN = frozenset({429, 502, 503, 504})
_HOPELESS = frozenset({"quota_reached"})
"""Limits that no waiting lifts."""
_IN_FLIGHT = "idempotency_in_flight"
_LONGEST_PAUSE_SECONDS = 60.0
_LONGEST_WORK_SECONDS = 600.0
_NOT_FOUND = 404


class Transport:
    """One service over one connection pool.

    A request is tried again after a cut connection, and after 429 and 503 once ``Retry-After`` is over. Every POST
    carries an ``Idempotency-Key``, so that one whose answer was lost is not carried out twice.
    """

    def __init__(self, config: Config, *, retries: int = 5, timeout: float = 60, backoff: float = 0.5) -> None:
        self.url = config.url
        self.retries = retries
        self._timeout = timeout
        self._backoff = backoff
        self._http = httpx.Client(
            base_url=config.url + API,
            headers={
                "Authorization": f"Bearer {config.key}",
                "User-Agent": f"winnow-client/{version('winnow-client')}",
            },
            timeout=self._patient(0),
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Give the JSON of an object or a list; parameters that are null are left out."""
        params = {name: it for name, it in query.items() if it is not None}
        return body_of(self.request("GET", path, params=params, timeout=self._patient(params.get("wait", 0))))

    def post(self, path: str, payload: Any = None, *, idempotency_key: str | None = None) -> Any:
        key = idempotency_key or new_key()
        return body_of(self.request("POST", path, json=payload, headers={"Idempotency-Key": key}))

    def delete(self, path: str) -> None:
        """Delete; where the answer was lost and the object is gone, that was it."""
        lost = False

        def once() -> httpx.Response:
            nonlocal lost
            try:
                response = self._http.request("DELETE", path)
            except httpx.TransportError:
                lost = True
                raise
            if response.is_error and not (lost and response.status_code == _NOT_FOUND):
                raise from_response(response)
            return response

        self.trying(once)

    def request(
        self, method: str, path: str, *, content: Body | None = None, retry: bool = True, **arguments: Any
    ) -> httpx.Response:
        """Send and give the answer, read whole. Raises ProblemError, ConnectionFailed."""

        def once() -> httpx.Response:
            body = content() if content is not None else None
            response = self._http.request(method, path, content=body, **arguments)
            if response.is_error:
                raise from_response(response)
            return response

        return self.trying(once) if retry else reached(once)

    def trying(self, once: Callable[[], httpx.Response]) -> httpx.Response:
        """Call until it succeeds, or fails in a way that another try does not mend."""
        tried, began = 0, time.monotonic()
        while True:
            try:
                return reached(once)
            except (ProblemError, ConnectionFailed) as error:
                # What an earlier try has begun is at work still: whoever waits for it has not failed.
                at_work = error.code == _IN_FLIGHT and time.monotonic() - began < _LONGEST_WORK_SECONDS
                if not at_work and (tried == self.retries or not worth_another_try(error)):
                    raise
                self.pause(tried, error)
                tried += not at_work

    def pause(self, tried: int, error: ProblemError | ConnectionFailed | None = None) -> None:
        """Wait for as long as the service asked, else twice as long each time, and never all clients at once."""
        asked = error.retry_after_seconds if isinstance(error, ProblemError) else None
        seconds = self._backoff * 2**tried * random.uniform(0.5, 1) if asked is None else asked  # noqa: S311  no secret
        time.sleep(min(seconds, _LONGEST_PAUSE_SECONDS))

    def _patient(self, silent_seconds: float) -> httpx.Timeout:
        """Give the timeouts of a request for which the service may say nothing for so long."""
        return httpx.Timeout(self._timeout, connect=10, read=self._timeout + silent_seconds)

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str], *, silent_seconds: float = 0) -> Iterator[httpx.Response]:
        """Open an answer that is read piece by piece. Raises ProblemError, ConnectionFailed; tries once."""
        patient = self._patient(silent_seconds)
        try:
            with self._http.stream("GET", path, headers=headers, follow_redirects=True, timeout=patient) as response:
                if response.is_error:
                    response.read()
                    raise from_response(response)
                yield response
        except httpx.TransportError as error:
            raise _failed(error) from error


def body_of(response: httpx.Response) -> dict[str, Any]:
    """Give the JSON object of an answer. Raises ConnectionFailed where somebody else than the service answered."""
    try:
        body = response.json()
    except ValueError as error:
        raise _foreign(response) from error
    if not isinstance(body, dict):
        raise _foreign(response)
    return body


def header_of(response: httpx.Response, name: str) -> str:
    """Give a header that the service always sends. Raises ConnectionFailed where it is not there."""
    if name not in response.headers:
        raise _foreign(response)
    return str(response.headers[name])


def reached(once: Callable[[], httpx.Response]) -> httpx.Response:
    try:
        return once()
    except httpx.TransportError as error:
        raise _failed(error) from error


def worth_another_try(error: ProblemError | ConnectionFailed) -> bool:
    if isinstance(error, ConnectionFailed):
        return True
    return (error.status in _AGAIN and error.code not in _HOPELESS) or error.code == _IN_FLIGHT


def new_key() -> str:
    return secrets.token_hex(16)


def _failed(error: httpx.TransportError) -> ConnectionFailed:
    where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
    return ConnectionFailed(f"{where} cannot be reached: {error or type(error).__name__}.", code="connection_failed")


def _foreign(response: httpx.Response) -> ConnectionFailed:
    said = response.headers.get("Content-Type") or "nothing that says what it is"
    return ConnectionFailed(
        f"{response.url.copy_with(query=None)} answered {response.status_code} with {said}, as no Winnow service does.",
        code="not_the_service",
        hint="Check the address, and what stands between.",
    )
