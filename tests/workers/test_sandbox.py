import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from app.domain.job import EventType
from app.domain.task import DoneMessage, EventMessage
from tests.workers.walls import PROMPT_SECONDS, Notes, all_gone, members, run, toy
from workers.sandbox import ProtocolBreach

pytestmark = pytest.mark.timeout(60)

START_SECONDS = 30
SLEEPER = 'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])'


def test_messages_and_output_arrive_in_order(sandbox, tmp_path):
    notes = Notes()
    body = """
    say(type="stage", data={"stage": "baseline"})
    print("to stdout")
    print("to stderr", file=sys.stderr)
    print("without an end", end="")
    say(type="done")
    """
    exit_, lines = run(sandbox, tmp_path, body, notes)
    assert (exit_.code, exit_.stopped, exit_.out_of_memory, exit_.excess) == (0, False, False, None)
    assert notes.messages == [EventMessage(type=EventType.STAGE, data={"stage": "baseline"}), DoneMessage()]
    assert lines == ["to stdout", "to stderr", "without an end"]


def test_a_flood_is_heard_to_the_end(sandbox, tmp_path):
    notes = Notes()
    body = """
    for step in range(5000):
        say(type="metric", data={"name": "loss", "step": step, "value": 0.5})
        print("x" * 100)
    say(type="done")
    """
    run(sandbox, tmp_path, body, notes)
    assert [m.data["step"] for m in notes.messages[:-1]] == list(range(5000))
    assert len(notes.lines) == 5000


def test_a_child_that_must_stop_goes_with_all_it_started(sandbox, tmp_path):
    notes = Notes(stop_when=lambda: bool(notes.lines))
    body = f"""
    import subprocess, time
    {SLEEPER}
    print("started")
    time.sleep(600)
    """
    began = time.monotonic()
    exit_, _ = run(sandbox, tmp_path, body, notes)
    assert exit_.stopped
    assert exit_.code == -signal.SIGKILL
    assert not exit_.out_of_memory
    assert time.monotonic() - began < PROMPT_SECONDS
    assert all_gone(tmp_path)


def test_what_a_finished_child_leaves_behind_is_killed(sandbox, tmp_path):
    exit_, _ = run(sandbox, tmp_path, f"import subprocess\n{SLEEPER}\nsay(type='done')")
    assert exit_.code == 0
    assert all_gone(tmp_path)


def test_a_watcher_that_raises_leaves_no_process(sandbox, tmp_path):
    class Broken(Notes):
        def must_stop(self):
            if self.lines:
                raise ConnectionError("database lost")
            return False

    with pytest.raises(ConnectionError):
        run(sandbox, tmp_path, "import time\nprint('started')\ntime.sleep(600)", Broken())
    assert all_gone(tmp_path)


@pytest.mark.parametrize("line", ["no json", '{"type": "state", "data": {}}', '{"type": "done", "extra": 1}'])
def test_what_is_no_message_is_a_breach(sandbox, tmp_path, line):
    with pytest.raises(ProtocolBreach):
        run(sandbox, tmp_path, f"os.write(int(sys.argv[-1]), {line!r}.encode() + b'\\n')")


def test_the_reason_of_a_crash_is_told(sandbox, tmp_path):
    assert run(sandbox, tmp_path, "sys.exit(3)")[0].reason == "exit status 3"
    assert run(sandbox, tmp_path, "os.abort()")[0].reason == "killed by SIGABRT"


def test_the_child_sees_little_of_this_process(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("WINNOW_SECRET", "hush")
    inherited, other = os.pipe()
    os.set_inheritable(inherited, True)
    body = """
    import resource
    print(sorted(os.environ))
    print(repr(sys.stdin.read()))
    print(resource.getrlimit(resource.RLIMIT_CORE))
    print(os.getcwd())
    print([fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")])
    """
    _, (names, *rest, descriptors) = run(sandbox, tmp_path, body)
    os.close(inherited)
    os.close(other)
    assert len(json.loads(descriptors)) == 1  # the pipe for messages
    assert "WINNOW" not in names
    assert rest == ["''", "(0, 0)", str(tmp_path)]


def test_the_child_dies_with_its_supervisor(sandbox, tmp_path):
    toy(tmp_path, f"import subprocess, time\n{SLEEPER}\nopen('started', 'w').close()\ntime.sleep(600)")
    supervisor = textwrap.dedent(f"""
        import sys, pathlib
        from tests.workers.walls import BACKENDS, LIMITS, Notes
        from workers.sandbox import Sandbox, supervise
        folder = pathlib.Path({str(tmp_path)!r})
        isolation = next(backend for backend in BACKENDS if backend.name == {sandbox.isolation.name!r})
        argv = [sys.executable, str(folder / "toy.py"), str(folder)]
        supervise(argv, folder, Notes(), Sandbox(isolation, LIMITS), threads=1)
    """)
    with subprocess.Popen([sys.executable, "-c", supervisor]) as process:
        deadline = time.monotonic() + START_SECONDS
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(members(tmp_path)) >= 2
        process.kill()
    assert all_gone(tmp_path)
