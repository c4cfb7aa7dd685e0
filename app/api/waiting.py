"""Answers that wait until something changes."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

_POLL_SECONDS = 0.2
T = TypeVar("T")


async def read_until(read: Callable[[], T], changed: Callable[[T], bool], seconds: float) -> T:
    """Read again and again, holding no session in between, until it changed or the time is over."""
    deadline = time.monotonic() + seconds
    value = await run_in_threadpool(read)
    while not changed(value) and time.monotonic() < deadline:
        await asyncio.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        value = await run_in_threadpool(read)
    return value
