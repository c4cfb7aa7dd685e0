"""Checkpoints: what a step that takes long needs to go on where its process was killed.

What is over in seconds is not kept: run again, it gives the same network.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

KEPT = 2
"""The newest of a step, and the one before it in case the newest turns out to be damaged."""
_UNFINISHED = ".part"

Log = Callable[[str, str], None]
"""Hears a message and its level."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one step, counted from 1 in its recipe; several steps share the folder.

    Where a step trains more than once, each of its rounds has checkpoints of its own.
    """

    folder: Path
    step: int
    log: Log
    round: int | None = None

    def of_round(self, number: int) -> "Checkpoints":
        return replace(self, round=number)

    def save(self, epoch: int, state: dict[str, Any], *, finished: bool) -> None:
        """Write the state after an epoch, whole or not at all; where there is no room for it, say so and go on.

        Tensors, numbers, strings and containers of them are all that a state may hold. Of a finished step
        the last state alone is kept.
        """
        path = self.folder / f"{self._prefix()}{epoch:04d}.pt"
        unfinished = path.with_suffix(_UNFINISHED)
        try:
            self.folder.mkdir(exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            _sync(self.folder)
        except (OSError, RuntimeError) as error:  # torch's writer makes the latter of the former
            unfinished.unlink(missing_ok=True)
            self.log(f"{path.name} could not be written: {error}", "warning")
            return
        for older in self._paths()[1 if finished else KEPT :]:
            older.unlink()

    def newest_first(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read the states that are kept, by name; a damaged file is left out with a word in the log."""
        for path in self._paths():
            try:
                state = _read(path)
            except Exception as error:  # noqa: BLE001 - damage shows itself in as many ways as there are bytes
                self.log(f"{path.name} is damaged and left out: {error}", "warning")
            else:
                yield path.name, state

    def _prefix(self) -> str:
        part = "" if self.round is None else f"round-{self.round:02d}-"
        return f"step-{self.step:02d}-{part}epoch-"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self._prefix()}*.pt"), reverse=True)


def _read(path: Path) -> dict[str, Any]:
    """Read a state without running anything that the file says; torch alone would overlook flipped bytes."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the member {damaged!r} does not match its checksum")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it holds no state")
    return state


def _sync(folder: Path) -> None:
    """Make the renaming itself outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
