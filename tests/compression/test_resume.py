"""A child that is killed and started again on the same folder, as the supervisor does it on another one."""

import hashlib
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from app.domain.report import Report
from app.domain.task import CHECKPOINTS_FOLDER, MESSAGE, TASK
from tests.compression.test_child import ROOT, compress_task

EPOCHS = 4
RECIPE = [
    {"method": "prune", "amount": 0.3, "rounds": 2, "recovery_epochs": 2},
    {"method": "distill", "epochs": EPOCHS, "learning_rate": 0.05},
    {"method": "finetune", "epochs": EPOCHS, "learning_rate": 0.01, "optimizer": "adamw"},
    {"method": "quantize"},
]
WAIT_SECONDS = 120


@contextmanager
def started(folder):
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.compression", str(folder), "--messages-fd", str(writer)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        pass_fds=(writer,),
    )
    os.close(writer)
    with child, os.fdopen(reader, "rb") as pipe:
        try:
            yield (MESSAGE.validate_json(line) for line in pipe)
        finally:
            child.kill()


def finish(folder):
    """Run the child to its end; give the digests of both files, and its messages."""
    with started(folder) as child:
        messages = list(child)
    assert messages[-1].type == "done", [message for message in messages if message.type in {"log", "failure"}]
    digests = [hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in ("model.onnx", "model.pt2")]
    return digests, messages


def kill_once(folder, ready):
    """Start the child and kill it once it is ready for that; give the names of its checkpoints."""
    with started(folder) as child:
        deadline = time.monotonic() + WAIT_SECONDS
        for message in child:
            if ready(message):
                break
            assert message.type != "done"
            assert time.monotonic() < deadline
    return checkpoints(folder)


def checkpoints(folder):
    return sorted(path.name for path in (folder / CHECKPOINTS_FOLDER).glob("*.pt"))


def logged(messages):
    return [message.data["message"] for message in messages if message.type == "log"]


def trained(messages):
    """Give the epochs that were trained, in order."""
    events = [message.data for message in messages if message.type == "metric"]
    return [event["step"] for event in events if event["name"] == "loss"]


@pytest.fixture(scope="module")
def make_folder(digits_folder, tmp_path_factory):
    def make():
        folder = tmp_path_factory.mktemp("job")
        for name in ("digits.npz", "digits.pt2"):
            (folder / name).symlink_to(digits_folder / name)
        (folder / "task.json").write_bytes(TASK.dump_json(compress_task(RECIPE)))
        return folder

    return make


RECOVERED = "step-01-round-01-epoch-0002.pt"


def test_a_child_killed_in_a_recovery_in_an_epoch_and_between_steps_ends_with_the_same_bytes(make_folder):
    expected, messages = finish(make_folder())
    assert trained(messages) == [1, 2, 1, 2, 3, 4, 1, 2, 3, 4]

    folder = make_folder()
    assert kill_once(folder, lambda _: checkpoints(folder))[0].startswith("step-01-round-01-epoch-")
    kept = kill_once(folder, lambda _: len(checkpoints(folder)) >= 3)
    assert kept[0] == RECOVERED
    # The child does not wait to be killed: it goes on from whichever epoch it has come to, of either training.
    newest = kept[-1]
    step, resumed = (int(part) for part in re.fullmatch(r"step-(\d+)-epoch-(\d+)\.pt", newest).groups())

    heard = []

    def quantizing(message):
        heard.append(message)
        return message.type == "stage" and message.data["stage"] == "quantizing"

    kept = kill_once(folder, quantizing)
    assert kept == [RECOVERED, "step-02-epoch-0004.pt", "step-03-epoch-0004.pt"]
    assert trained(heard) == [*range(resumed + 1, EPOCHS + 1), *([1, 2, 3, 4] if step == 2 else [])]
    assert f"going on from {newest}, after epoch {resumed} of 4" in logged(heard)

    digests, messages = finish(folder)
    assert digests == expected
    assert trained(messages) == []
    assert not any("teacher" in line for line in logged(messages))
    report = Report.model_validate_json((folder / "out" / "report.json").read_text())
    assert [epoch["epoch"] for epoch in report.steps[0].details["rounds"][0]["recovery"]["epochs"]] == [1, 2]
    steps = [step for step in report.steps if "epochs" in step.details]
    assert [[epoch["epoch"] for epoch in step.details["epochs"]] for step in steps] == [[1, 2, 3, 4]] * 2
    # What the attempts before had spent is counted.
    assert all(step.seconds > 0.1 for step in steps)
