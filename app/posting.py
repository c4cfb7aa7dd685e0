"""One POST to an address that a user named: resolved once, and refused unless it is of the open internet.

A name is looked up where the connection is made, and the connection goes to the very address that was checked: nobody
can answer the check with one address and the connection with another. Host, SNI and certificate keep the name.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from app.domain.webhook import DeliveryError, is_public

_DRAINED_BYTES = 16 * 1024
_DRAIN_SECONDS = 1.0
_MOST_ADDRESSES = 3
_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_KEPT_METHOD = (307, 308)


class _AddressRefused(Exception):
    """The name leads to an address that is not of the open internet."""


class _NotResolved(Exception):
    """The name leads nowhere."""


@dataclass(frozen=True)
class Outcome:
    """What was answered, and why that does not do; ``error`` is null for a 2xx."""

    status: int | None
    error: DeliveryError | None


@dataclass(frozen=True)
class Policy:
    """What the operator allows."""

    private: bool = False
    redirects: bool = False
    timeout_seconds: float = 10.0


class Poster:
    """Sends, to any number of receivers at once, each on a connection of its own."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._backend = _Pinned(private=policy.private)
        self._ssl: ssl.SSLContext | None = None

    async def post(self, url: str, headers: Mapping[str, str], content: bytes) -> Outcome:
        """Send, and wait for the status; never raises for what a receiver does."""
        try:
            async with asyncio.timeout(self._policy.timeout_seconds):
                return await self._post(url, headers, content)
        except _AddressRefused:
            return Outcome(None, DeliveryError.ADDRESS_REFUSED)
        except _NotResolved:
            return Outcome(None, DeliveryError.NAME_NOT_RESOLVED)
        except (TimeoutError, httpcore.TimeoutException):
            return Outcome(None, DeliveryError.TIMED_OUT)
        except httpcore.NetworkError as error:
            tls = isinstance(error.__cause__, ssl.SSLError) or isinstance(error.__context__, ssl.SSLError)
            return Outcome(None, DeliveryError.TLS_FAILED if tls else DeliveryError.CONNECTION_FAILED)
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, ValueError):
            return Outcome(None, DeliveryError.PROTOCOL_ERROR)

    async def _post(self, url: str, headers: Mapping[str, str], content: bytes) -> Outcome:
        for _ in range(_MOST_REDIRECTS + 1):
            async with self._answer(url, headers, content) as response:
                status, location = response.status, _header(response.headers, b"location")
            if 200 <= status < 300:
                return Outcome(status, None)
            if status not in _REDIRECTS:
                return Outcome(status, DeliveryError.HTTP_STATUS)
            if not self._policy.redirects or status not in _KEPT_METHOD or not location:
                break
            following = urljoin(url, location)
            if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
                break
            url = following
        return Outcome(status, DeliveryError.REDIRECT)

    @asynccontextmanager
    async def _answer(self, url: str, headers: Mapping[str, str], content: bytes) -> AsyncIterator[httpcore.Response]:
        if self._ssl is None:
            self._ssl = httpcore.default_ssl_context()
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._ssl, network_backend=self._backend, max_keepalive_connections=0
        )
        sent = {"host": urlsplit(url).netloc.rpartition("@")[2], "content-length": str(len(content)), **headers}
        async with pool, pool.stream("POST", url, headers=list(sent.items()), content=content) as response:
            # A receiver that is still writing would take a connection cut short for a failure of its own.
            with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await _drain(response)
            yield response


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to addresses that it has resolved and looked at itself."""

    def __init__(self, *, private: bool) -> None:
        self._allowed: Callable[[str], bool] = (lambda _: True) if private else is_public
        self._connector = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the library's own signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await resolve(host, port)
        # All of them must do: a name of both kinds is a trap or a mistake.
        if not all(map(self._allowed, addresses)):
            raise _AddressRefused
        failure: httpcore.ConnectError | None = None
        for address in addresses[:_MOST_ADDRESSES]:
            try:
                return await self._connector.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                failure = error
        raise failure or _NotResolved

    async def connect_unix_socket(self, *_arguments: Any, **_named: Any) -> httpcore.AsyncNetworkStream:
        raise _AddressRefused

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def resolve(host: str, port: int) -> list[str]:
    """Look a name up, in a thread that nobody has to wait for. Raises where it leads nowhere."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def look_up() -> None:
        try:
            addresses = [str(it[4][0]) for it in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError):
            addresses = []
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_give, found, addresses)

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    addresses = list(dict.fromkeys(await found))
    if not addresses:
        raise _NotResolved
    return addresses


def _give(found: asyncio.Future[list[str]], addresses: list[str]) -> None:
    if not found.done():  # its time was over before
        found.set_result(addresses)


async def _drain(response: httpcore.Response) -> None:
    size = 0
    async for piece in response.aiter_stream():
        size += len(piece)
        if size > _DRAINED_BYTES:
            return


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), "")
