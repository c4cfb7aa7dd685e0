"""The child process as the supervisor starts it: a folder in, messages and files out."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from app.domain.dataset import DatasetFacts
from app.domain.job import JobSpec
from app.domain.model import ModelFacts
from app.domain.report import Report
from app.domain.task import MESSAGE, TASK, Compress, InspectDataset, InspectModel, ModelFile
from tests.compression.digits import digits, write_digits

ROOT = Path(__file__).resolve().parents[2]
RECIPE = [
    {"method": "prune", "amount": 0.3},
    {"method": "distill", "epochs": 4, "learning_rate": 0.05},
    {"method": "quantize"},
]
TEACHER = ModelFile(path="teacher.pt2", format="pt2")


def start(folder, task):
    """Run the child on a task; give its exit status, its messages and what it printed."""
    (folder / "task.json").write_bytes(TASK.dump_json(task))
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "workers.compression", str(folder), "--messages-fd", str(writer)],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
            pass_fds=(writer,),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        messages = [MESSAGE.validate_json(line) for line in pipe]
    printed = child.communicate(timeout=60)[0].decode()
    return child.returncode, messages, printed


@pytest.fixture
def folder(tmp_path, digits_folder):
    for name in ("digits.npz", "digits.pt2"):
        (tmp_path / name).symlink_to(digits_folder / name)
    return tmp_path


def compress_task(recipe, **given):
    job = JobSpec(model_id="mdl_1", dataset_id="dat_1", recipe=recipe, **given)
    return Compress(
        model_path="digits.pt2",
        model_format="pt2",
        dataset_path="digits.npz",
        dataset_format="npz",
        job=job,
        threads=1,
        service_version="1.2.3",
    )


def test_a_student_derived_from_the_network_learns_from_another_model(folder):
    (folder / "teacher.pt2").symlink_to((folder / "digits.pt2").resolve())
    teacher = "mdl_01J00000000000000000000000"
    step = {"method": "distill", "teacher": teacher, "student": {"width": 0.5}, "epochs": 4, "learning_rate": 0.05}
    task = compress_task([step]).model_copy(update={"models": {teacher: TEACHER}})
    code, messages, printed = start(folder, task)
    assert (code, messages[-1].type) == (0, "done"), (messages[-1], printed)
    report = Report.model_validate_json((folder / "out" / "report.json").read_text())
    (told,) = report.steps
    assert told.details["teacher"] == {"network": teacher, "output": "output", "losses": {"kd": 1.0}}
    assert told.details["student"]["network"] == "derived"
    assert (told.spec["loss"], told.spec["alpha"]) == ("kd", 0.7)
    assert report.delta.macs_ratio == pytest.approx(told.details["student"]["macs_ratio"])
    assert report.delta.macs_ratio > 2
    assert report.compressed.metrics["accuracy"].value > 0.8


def test_a_teacher_that_is_no_network_fails_the_job_before_anything_runs(folder):
    (folder / "teacher.pt2").write_bytes(b"nonsense")
    teacher = "mdl_01J00000000000000000000000"
    task = compress_task([{"method": "distill", "teacher": teacher}])
    code, messages, _ = start(folder, task.model_copy(update={"models": {teacher: TEACHER}}))
    assert (code, messages[-1].failure.code) == (0, "corrupt_file")


def test_a_job_from_files_to_files(folder):
    code, messages, printed = start(folder, compress_task(RECIPE, objective={"max_drop": 0.2}))
    assert (code, messages[-1].type) == (0, "done"), (messages[-1], printed)
    assert messages[0].data == {"stage": "preparing"}
    report = Report.model_validate_json((folder / "out" / "report.json").read_text())
    assert report.objective.met
    assert report.environment.service == "1.2.3"
    x, y = (array[1437:] for array in digits())
    session = onnxruntime.InferenceSession(folder / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})[0].argmax(axis=1)
    assert (found == y).mean() == pytest.approx(report.compressed.metrics["accuracy"].value)
    assert {message.name for message in messages if message.type == "artifact"} == {
        path.name for path in (folder / "out").iterdir()
    }


def test_a_missed_objective_keeps_report_and_files(folder):
    recipe = [{"method": "finetune", "epochs": 1, "learning_rate": 9.0}]
    code, messages, _ = start(folder, compress_task(recipe, objective={"max_drop": 0.0}))
    assert code == 0
    assert messages[-1].failure.code == "objective_missed"
    assert messages[-1].failure.class_ == "user"
    names = [message.name for message in messages if message.type == "artifact"]
    assert names == ["model.onnx", "model.pt2", "report.json", "benchmark.zip", "report.html", "model-card.md"]
    assert not Report.model_validate_json((folder / "out" / "report.json").read_text()).objective.met


def test_a_model_is_inspected(folder):
    code, messages, printed = start(folder, InspectModel(path="digits.pt2", format="pt2"))
    assert (code, messages[-1].type) == (0, "done"), (messages[-1], printed)
    facts = ModelFacts.model_validate_json((folder / "out" / "facts.json").read_text())
    assert {layer.name for layer in facts.layers} >= {"conv1", "conv2", "fc"}


def test_a_data_set_is_inspected(folder):
    code, messages, _ = start(folder, InspectDataset(path="digits.npz", format="npz"))
    assert (code, [message.type for message in messages]) == (0, ["done"])
    facts = DatasetFacts.model_validate_json((folder / "out" / "facts.json").read_text())
    assert facts.classes == 10


def test_a_fault_of_the_file_is_a_failure_with_its_code(folder):
    write_digits(folder / "bad.npz", **{"train.y": np.full(1437, -1)})
    code, messages, _ = start(folder, InspectDataset(path="bad.npz", format="npz"))
    assert code == 0
    assert [message.type for message in messages] == ["failure"]
    assert messages[0].failure.code == "invalid_labels"
    assert "train.y" in messages[0].failure.detail
    assert not (folder / "out" / "facts.json").exists()


def test_an_error_that_nobody_foresaw_is_the_service_s_own(folder):
    code, messages, _ = start(folder, InspectDataset(path="missing.npz", format="npz"))
    assert code == 1
    log, failure = messages
    assert log.data["level"] == "error"
    assert "FileNotFoundError" in log.data["message"]
    assert (failure.failure.code, failure.failure.class_) == ("internal_error", "service")


def test_a_full_disk_is_transient(folder):
    (folder / "out").mkdir()
    (folder / "out" / "facts.json").symlink_to("/dev/full")
    code, messages, _ = start(folder, InspectDataset(path="digits.npz", format="npz"))
    assert code == 0
    assert (messages[-1].failure.code, messages[-1].failure.class_) == ("storage_full", "transient")
