"""Answers that wait until something changes."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from app.api.watching import Watch
from app.services.callers import Caller

T = TypeVar("T")


async def read_until(
    watch: Watch,
    caller: Caller,
    object_id: str,
    read: Callable[[], T],
    state_of: Callable[[T], str],
    *,
    leaves: str,
    seconds: float,
) -> T:
    """Read once the object leaves a state or the time is over; in between neither a thread nor a session is held."""
    deadline = time.monotonic() + seconds
    value = await run_in_threadpool(read)
    if not seconds or state_of(value) != leaves:
        return value
    with watch.seat(object_id, caller) as seat:
        while state_of(value) == leaves and not seat.ended:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await seat.turn()
            except TimeoutError:
                break
            mark = seat.topic.mark
            if seat.ended or mark is None or mark.state != leaves:
                value = await run_in_threadpool(read)
    return value
