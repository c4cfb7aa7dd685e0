"""Ctrl-C at a terminal: asked first, detached second."""

import os
import pty
import select
import signal
import subprocess
from contextlib import contextmanager

import pytest

from app.domain.job import JobState
from tests.clients.command import COMMAND


class Terminal:
    """``winnow wait`` at a terminal of its own."""

    def __init__(self, project, job_id):
        self.shown, slave = pty.openpty()
        self.said = ""
        environment = os.environ | {"WINNOW_URL": project.server.url, "WINNOW_KEY": project.key}
        command = [*COMMAND, "wait", job_id]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
        os.close(slave)

    def until(self, text):
        while text not in self.said:
            self.said += os.read(self.shown, 4096).decode(errors="replace")

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def answer(self, text):
        os.write(self.shown, f"{text}\n".encode())

    def status(self):
        try:
            while True:
                self.said += os.read(self.shown, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            return self.process.wait(30)


@pytest.fixture
def job_id(project):
    return project.queued()


@contextmanager
def waiting(project, job_id):
    terminal = Terminal(project, job_id)
    try:
        terminal.until("queued")
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.shown)


def state(project, job_id):
    return project.client.get(f"jobs/{job_id}").json()["state"]


def test_yes_cancels(project, job_id):
    with waiting(project, job_id) as terminal:
        terminal.interrupt()
        terminal.until(f"Cancel {job_id}? [y/N]")
        terminal.answer("y")
        assert terminal.status() == 5
    assert state(project, job_id) == "cancelled"


def test_a_second_one_leaves_it_running(project, job_id):
    with waiting(project, job_id) as terminal:
        terminal.interrupt()
        terminal.until("[y/N]")
        terminal.interrupt()
        # One that comes between the question and the wait for its answer is seen with the next.
        while not select.select([terminal.shown], [], [], 2)[0]:
            terminal.interrupt()
        assert terminal.status() == 130
        assert f"winnow wait {job_id}" in terminal.said
    assert state(project, job_id) == "queued"


def test_no_goes_on_following(project, job_id):
    with waiting(project, job_id) as terminal:
        terminal.interrupt()
        terminal.until("leaves it running)")
        terminal.said = ""
        terminal.answer("n")
        project.claim(job_id)
        terminal.until("running")
        # A no is not a second one: it is asked anew.
        terminal.interrupt()
        terminal.until("[y/N]")
        terminal.answer("n")
        project.finish(job_id, JobState.TIMED_OUT)
        assert terminal.status() == 6
