import os
import subprocess
import sys
import threading
import time

import pytest

from tests.workers.site import until
from tests.workers.walls import Notes, run
from workers.runner import run_job
from workers.turn import Turn

pytestmark = pytest.mark.timeout(60)

MEASURE = """
import time
say(type="turn", wanted=True)
assert os.read(int(sys.argv[-1]), 1)
began = time.time()
time.sleep(1)
print("measured", began, time.time())
say(type="turn", wanted=False)
say(type="done")
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "measuring.lock"


def test_one_has_the_turn_at_a_time(lock):
    with Turn(lock) as one, Turn(lock) as other:
        assert not one.comes()  # it was not asked for
        one.ask()
        other.ask()
        assert one.comes()
        assert not one.comes()
        assert not other.comes()
        one.give_back()
        assert other.comes()
        one.ask()
        assert not one.comes()
    with Turn(lock) as third:
        third.ask()
        assert third.comes()


def test_who_waits_is_told_for_how_long(lock):
    with Turn(lock) as one, Turn(lock) as other:
        began = time.monotonic()
        one.ask()
        assert one.comes()
        assert one.waited <= time.monotonic() - began
        other.ask()
        time.sleep(0.2)
        assert other.waited >= 0.2
        one.give_back()
        assert other.comes()
        waited = other.waited
        time.sleep(0.05)
        assert other.waited == waited


def test_the_turn_of_a_dead_process_is_taken_back(lock):
    script = (
        "import pathlib, sys, time; from workers.turn import Turn; turn = Turn(pathlib.Path(sys.argv[1]));"
        " turn.ask(); turn.comes(); print('taken', flush=True); time.sleep(600)"
    )
    with (
        Turn(lock) as mine,
        subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout.readline() == b"taken\n"
        mine.ask()
        assert not mine.comes()
        process.kill()
        process.wait()
        assert mine.comes()


def test_whoever_claims_to_measure_for_ever_is_no_longer_waited_for(lock, monkeypatch):
    monkeypatch.setattr("workers.turn.MOST_SECONDS", 0.0)
    with Turn(lock) as one, Turn(lock) as other:
        one.ask()
        one.comes()
        time.sleep(0.01)
        assert not one.comes()
        other.ask()
        assert other.comes()


def test_workers_of_other_users_can_wait_for_a_turn_too(lock):
    before = os.umask(0o077)
    try:
        with Turn(lock):
            assert lock.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_a_link_is_no_lock(lock, tmp_path):
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"measuring\.lock"):
        Turn(lock)
    assert not (tmp_path / "elsewhere").exists()


def test_a_child_waits_within_its_walls(sandbox, tmp_path, lock):
    class Taking(Notes):
        def __init__(self, turn):
            super().__init__()
            self.turn = turn

        def message(self, message):
            super().message(message)
            if message.type == "turn":
                (self.turn.ask if message.wanted else self.turn.give_back)()

        def turn_comes(self):
            return self.turn.comes()

    with Turn(lock) as turn:
        exit_, lines = run(sandbox, tmp_path, MEASURE, Taking(turn))
    assert exit_.code == 0
    assert lines[0].startswith("measured")


def test_two_jobs_measure_one_after_the_other(site):
    uploads = site.add_inputs()
    jobs = [site.submit(*uploads) for _ in range(2)]
    workplace = site.workplace(MEASURE)
    with Turn(workplace.measuring_lock) as mine:
        mine.ask()
        assert mine.comes()
        threads = [threading.Thread(target=run_job, args=(workplace, job, 1)) for job in jobs]
        for thread in threads:
            thread.start()
        until(lambda: all(site.job(job).state == "running" for job in jobs))
        time.sleep(1)
        assert not any("measured" in line for job in jobs for line in _log(site, job))
    for thread in threads:
        thread.join()
    assert [site.job(job).state for job in jobs] == ["succeeded", "succeeded"]
    spans = sorted(_measured(site, job) for job in jobs)
    assert spans[0][1] <= spans[1][0]


def test_time_spent_waiting_is_not_the_jobs(site):
    # Much more than it takes to start, on a machine that stalls too.
    job = site.submit(*site.add_inputs(), time_limit_seconds=5)
    workplace = site.workplace(MEASURE.replace("time.sleep(1)", ""))
    with Turn(workplace.measuring_lock) as mine:
        mine.ask()
        assert mine.comes()
        thread = threading.Thread(target=run_job, args=(workplace, job, 1))
        thread.start()
        time.sleep(6.5)
        assert site.job(job).state == "running"
    thread.join()
    assert site.job(job).state == "succeeded"


def _log(site, job):
    return [event.data["message"] for event in site.events(job) if event.type == "log"]


def _measured(site, job):
    (line,) = [line for line in _log(site, job) if line.startswith("measured")]
    return tuple(map(float, line.split()[1:]))
