"""What one project may take of the service: requests a minute, jobs at a time, bytes stored."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from sqlalchemy.orm import Session

from app.db import contents, jobs, resumable, usage
from app.domain.errors import QuotaReached, RateLimited, TooLarge, TooManyJobs

_JOBS_RETRY_SECONDS = 30
_QUOTA_RETRY_SECONDS = 300


class Rates:
    """Counts the requests of each project within a sliding minute, in this process alone."""

    def __init__(self, per_minute: int | None) -> None:
        self._limit = RateLimitItemPerMinute(per_minute) if per_minute is not None else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def hit(self, project_id: str) -> None:
        """Count a request. Raises RateLimited."""
        if self._limit is None or self._limiter.hit(self._limit, project_id):
            return
        reset = self._limiter.get_window_stats(self._limit, project_id).reset_time
        raise RateLimited(
            f"The limit is {self._limit.amount} requests a minute for each project.",
            retry_after_seconds=max(1, math.ceil(reset - time.time())),
        )


def check_jobs(session: Session, project_id: str, limit: int | None) -> None:
    """Raise TooManyJobs where the project, which is locked, has as many jobs underway as it may."""
    if limit is not None and jobs.count_active(session, project_id, at_most=limit) >= limit:
        raise TooManyJobs(
            f"The limit is {limit} jobs that have not ended.",
            hint="Cancel one, or wait for one to end.",
            retry_after_seconds=_JOBS_RETRY_SECONDS,
        )


def check_room(session: Session, project_id: str, sha256: str, size_bytes: int, limit: int | None) -> None:
    """Raise where a content has no room in the project, which is locked; one that it has already needs none."""
    if limit is not None and not contents.counted(session, project_id, sha256):
        check_new_room(session, project_id, size_bytes, limit)


def check_new_room(session: Session, project_id: str, size_bytes: int, limit: int | None) -> None:
    """Raise where so many bytes have no room in the project beside what it stores and what is on its way.

    Raises:
        TooLarge: it would not even have room alone.
        QuotaReached: it would, had something else been deleted.
    """
    if limit is None:
        return
    if size_bytes > limit:
        raise TooLarge(f"The body has {size_bytes} bytes; the limit for all of a project is {limit}.")
    stored_bytes = usage.stored_bytes(session, project_id) + resumable.reserved_bytes(session, project_id)
    if stored_bytes + size_bytes > limit:
        raise QuotaReached(
            f"The limit is {limit} bytes; {stored_bytes} are stored or on their way, and this needs {size_bytes} more.",
            hint="Delete models, data sets, jobs or uploads.",
            retry_after_seconds=_QUOTA_RETRY_SECONDS,
        )
