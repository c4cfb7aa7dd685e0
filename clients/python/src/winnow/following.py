"""A job followed on a terminal: a bar while it runs, and what Ctrl-C means."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO

from winnow.jobs import Event, Job, JobStatus

_BAR = 30
_REDRAW_SECONDS = 0.1


class Detached(Exception):
    """The user left; the job goes on."""


class Bar:
    """One line that is drawn anew on a terminal; elsewhere a line each time that its label changes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._drawn = ""
        self._label = ""
        self._at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def draw(self, label: str, share: float, note: str = "") -> None:
        if not self._stream.isatty():
            if label != self._label:
                self._stream.write(f"{label}\n")
                self._stream.flush()
            self._label = label
            return
        now = time.monotonic()
        if label == self._label and share < 1 and now - self._at < _REDRAW_SECONDS:
            return
        self._at, self._label = now, label
        line = f"{'█' * round(share * _BAR):░<{_BAR}} {share:4.0%}  {label}  {note}"
        self._stream.write(f"\r{line:<{len(self._drawn)}}")
        self._stream.flush()
        self._drawn = line

    def end(self) -> None:
        if self._drawn:
            self._stream.write("\n")
            self._drawn = ""

    def transfer(self, label: str) -> Callable[[int, int], None]:
        """Give what uploads and downloads tell their progress."""

        def progress(done: int, size: int) -> None:
            self.draw(label, done / size if size else 1, f"{done / 1e6:,.1f} of {size / 1e6:,.1f} MB")

        return progress


def follow(job: Job) -> JobStatus:
    """Draw how a job gets on until it ends.

    Ctrl-C on a terminal asks whether the job is to be cancelled; a second one, at the question or while the job is
    being cancelled, leaves it running. Where there is nobody to ask, the first cancels and the second leaves.
    Raises Detached.
    """
    cancelling, after = False, 0
    while True:
        try:
            with Bar() as bar:
                draw = _drawing(job, bar)
                for event in job.events(after):
                    draw(event)
                    after = event.id
            return job.get_status()
        except KeyboardInterrupt:
            if cancelling:
                raise Detached from None
            cancelling = _interrupted(job)


def _interrupted(job: Job) -> bool:
    """Cancel the job where that is what the user wants; tell whether it is."""
    try:
        if sys.stdin.isatty():
            answer = input(f"Cancel {job.job_id}? [y/N] (Ctrl-C leaves it running) ")
            if answer.strip().lower() not in {"y", "yes"}:
                return False
        sys.stderr.write(f"Cancelling {job.job_id}; Ctrl-C again leaves it to end by itself.\n")
        if not job.get_status().finished:
            job.cancel()
    except (KeyboardInterrupt, EOFError):
        raise Detached from None
    return True


def _drawing(job: Job, bar: Bar) -> Callable[[Event], None]:
    shown: dict[str, Any] = {"label": job.raw["stage"] or job.raw["state"], "share": job.raw["progress"]}

    def on_event(event: Event) -> None:
        shown["label"] = event.data.get("stage") or event.data.get("state") or shown["label"]
        shown["share"] = event.data.get("fraction", shown["share"])
        bar.draw(shown["label"], shown["share"], str(event.data.get("message") or "")[:40])

    return on_event
