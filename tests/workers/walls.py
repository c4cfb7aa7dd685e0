"""Processes started within each kind of walls, and what they said."""

import json
import sys
import textwrap
import time
from pathlib import Path

import psutil

from workers.isolation.backends import BUBBLEWRAP, LANDLOCK
from workers.isolation.policy import Limits
from workers.sandbox import Exit, Sandbox, supervise

BACKENDS = (BUBBLEWRAP, LANDLOCK)
LIMITS = Limits(memory_bytes=1 << 30, disk_bytes=64 << 20, tasks=64)
PROMPT_SECONDS = 20
"""Time for what is done at the next look, also on a machine that stalls; looks are ``POLL_SECONDS`` apart."""

SPEAK = """
import json, os, sys
def say(**message):
    os.write(int(sys.argv[-1]), json.dumps(message).encode() + b"\\n")
"""


class Notes:
    """A watcher that writes down what it hears and stops when told."""

    def __init__(self, stop_when=lambda: False):
        self.messages, self.lines, self._stop_when = [], [], stop_when

    def message(self, message):
        self.messages.append(message)

    def line(self, text):
        self.lines.append(text)

    def must_stop(self):
        return self._stop_when()

    def turn_comes(self):
        return False


def toy(folder: Path, body: str) -> list[str]:
    """Write a script into the folder that it runs in; every process it starts with sys.argv[1] can be found."""
    script = folder / "toy.py"
    script.write_text(SPEAK + textwrap.dedent(body))
    return [sys.executable, str(script), str(folder)]


def run(sandbox: Sandbox, folder: Path, body: str, notes: Notes | None = None) -> tuple[Exit, list[str]]:
    notes = notes or Notes()
    return supervise(toy(folder, body), folder, notes, sandbox, threads=1), notes.lines


def ask(sandbox: Sandbox, folder: Path, body: str):
    """Run what prints one line of JSON, and give that."""
    exit_, lines = run(sandbox, folder, body)
    assert exit_.code == 0, lines
    return json.loads(lines[-1])


def members(folder: Path) -> list[psutil.Process]:
    """Give the processes that bear the folder's name, zombies left out."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        started_here = str(folder) in (process.info["cmdline"] or [])
        if started_here and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def all_gone(folder: Path, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while members(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
