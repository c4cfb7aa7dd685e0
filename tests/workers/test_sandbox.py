import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from app.domain.job import EventType
from app.domain.task import DoneMessage, EventMessage
from workers.sandbox import ProtocolBreach, supervise

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


def toy(folder: Path, body: str) -> list[str]:
    script = folder / "toy.py"
    script.write_text(SPEAK + textwrap.dedent(body))
    return [sys.executable, str(script)]


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_messages_and_output_arrive_in_order(tmp_path):
    notes = Notes()
    body = """
    say(type="stage", data={"stage": "baseline"})
    print("to stdout")
    print("to stderr", file=sys.stderr)
    print("without an end", end="")
    say(type="done")
    """
    exit_ = supervise(toy(tmp_path, body), tmp_path, notes, threads=1)
    assert (exit_.code, exit_.stopped, exit_.out_of_memory) == (0, False, False)
    assert notes.messages == [EventMessage(type=EventType.STAGE, data={"stage": "baseline"}), DoneMessage()]
    assert notes.lines == ["to stdout", "to stderr", "without an end"]


def test_a_flood_is_heard_to_the_end(tmp_path):
    notes = Notes()
    body = """
    for step in range(5000):
        say(type="metric", data={"name": "loss", "step": step, "value": 0.5})
        print("x" * 100)
    say(type="done")
    """
    supervise(toy(tmp_path, body), tmp_path, notes, threads=1)
    assert [m.data["step"] for m in notes.messages[:-1]] == list(range(5000))
    assert len(notes.lines) == 5000


def test_a_child_that_must_stop_goes_with_its_whole_group(tmp_path):
    notes = Notes(stop_when=lambda: len(notes.lines) == 2)
    body = """
    import subprocess, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(os.getpid())
    print(child.pid)
    time.sleep(600)
    """
    began = time.monotonic()
    exit_ = supervise(toy(tmp_path, body), tmp_path, notes, threads=1)
    assert exit_.stopped
    assert exit_.code == -signal.SIGKILL
    assert not exit_.out_of_memory
    assert time.monotonic() - began < 5
    assert all(gone(int(pid)) for pid in notes.lines)


def test_what_a_finished_child_leaves_behind_is_killed(tmp_path):
    notes = Notes()
    body = """
    import subprocess
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    say(type="done")
    """
    assert supervise(toy(tmp_path, body), tmp_path, notes, threads=1).code == 0
    assert gone(int(notes.lines[0]))


def test_a_watcher_that_raises_leaves_no_process(tmp_path):
    class Broken(Notes):
        def must_stop(self):
            if self.lines:
                raise ConnectionError("database lost")
            return False

    notes = Broken()
    with pytest.raises(ConnectionError):
        supervise(toy(tmp_path, "import time\nprint(os.getpid())\ntime.sleep(600)"), tmp_path, notes, threads=1)
    assert gone(int(notes.lines[0]))


@pytest.mark.parametrize("line", ["no json", '{"type": "state", "data": {}}', '{"type": "done", "extra": 1}'])
def test_what_is_no_message_is_a_breach(tmp_path, line):
    body = f"os.write(int(sys.argv[-1]), {line!r}.encode() + b'\\n')"
    with pytest.raises(ProtocolBreach):
        supervise(toy(tmp_path, body), tmp_path, Notes(), threads=1)


def test_the_reason_of_a_crash_is_told(tmp_path):
    assert supervise(toy(tmp_path, "sys.exit(3)"), tmp_path, Notes(), threads=1).reason == "exit status 3"
    assert supervise(toy(tmp_path, "os.abort()"), tmp_path, Notes(), threads=1).reason == "killed by SIGABRT"


def test_the_child_sees_little_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WINNOW_SECRET", "hush")
    inherited, other = os.pipe()
    os.set_inheritable(inherited, True)
    notes = Notes()
    body = """
    import resource
    print(sorted(os.environ))
    print(repr(sys.stdin.read()))
    print(resource.getrlimit(resource.RLIMIT_CORE))
    print(os.getsid(0) == os.getpid())
    print(os.getcwd())
    print([fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")])
    """
    supervise(toy(tmp_path, body), tmp_path, notes, threads=1)
    os.close(inherited)
    os.close(other)
    names, *rest, descriptors = notes.lines
    assert len(json.loads(descriptors)) == 1  # the pipe for messages
    assert "WINNOW" not in names
    assert rest == ["''", "(0, 0)", "True", str(tmp_path)]


def test_the_child_dies_with_its_supervisor(tmp_path):
    toy(tmp_path, "import time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    supervisor = textwrap.dedent(f"""
        import sys, pathlib
        from tests.workers.test_sandbox import Notes
        from workers.sandbox import supervise
        folder = pathlib.Path({str(tmp_path)!r})
        supervise([sys.executable, str(folder / "toy.py")], folder, Notes(), threads=1)
    """)
    pid_file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", supervisor]) as process:
        while not (pid_file.exists() and pid_file.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        pid = int(pid_file.read_text())
        assert psutil.pid_exists(pid)
        process.kill()
    assert gone(pid)
