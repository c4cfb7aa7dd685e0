"""The Python client and its command against the whole service, with jobs that run."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import winnow

from tests.clients.command import COMMAND
from tests.compression.digits import write_digits, write_network
from tests.e2e.service import RECIPE

LONG = [{"method": "distill", "teacher": "baseline", "epochs": 500, "learning_rate": 0.001}]
ARTIFACTS = {"model.onnx", "model.pt2", "report.json", "benchmark.zip", "job.log"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_digits(folder / "digits.npz")
    write_network(folder / "digits.pt2", epochs=5)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "long.yaml").write_text(json.dumps({"recipe": LONG, "labels": {"kind": "long"}}))
    lines = ["name: small digits", "objective: {max_drop: 0.9}", "recipe:", "- {method: prune, amount: 0.3}"]
    (folder / "recipe.yaml").write_text("\n".join([*lines, "- {method: quantize, scheme: static, samples: 128}"]))
    return folder


@pytest.fixture(scope="module")
def environment(service, tmp_path_factory):
    home = str(tmp_path_factory.mktemp("home"))
    key = (service.data / "admin.key").read_text().strip()
    given = {"WINNOW_URL": f"http://127.0.0.1:{service.port}", "WINNOW_KEY": key}
    return os.environ | given | {"XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}


@pytest.fixture(scope="module")
def client(environment):
    with winnow.Client(environment["WINNOW_URL"], environment["WINNOW_KEY"]) as client:
        yield client


def run(environment, *arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )


def test_one_command_uploads_compresses_waits_and_downloads(environment, folder, tmp_path):
    arguments = [folder / "digits.pt2", folder / "digits.npz", "--recipe", folder / "recipe.yaml", "--out", tmp_path]
    done = run(environment, "compress", *arguments)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= ARTIFACTS
    assert "accuracy [95 %]" in done.stdout
    assert str(tmp_path / "model.onnx") in done.stdout
    job_id = next(line for line in done.stderr.splitlines() if line.startswith("job_"))
    report = run(environment, "report", job_id, "--format", "json").stdout
    assert json.loads(report) == json.loads((tmp_path / "report.json").read_text())
    assert json.loads(report)["objective"]["max_drop"] == 0.9
    listed = [json.loads(line) for line in run(environment, "jobs", "--json").stdout.splitlines()]
    assert (listed[0]["id"], listed[0]["name"]) == (job_id, "small digits")


@pytest.mark.long
def test_a_job_that_misses_its_objective_says_so_by_its_status_and_keeps_its_files(environment, folder, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps([{"method": "prune", "amount": 0.9}]))
    files = [folder / "digits.pt2", folder / "digits.npz"]
    done = run(environment, "compress", *files, "--recipe", recipe, "--out", tmp_path / "out", "--max-drop", "0.001")
    assert done.returncode == 4, done.stderr
    assert "latency p50" in done.stdout
    assert (tmp_path / "out" / "report.json").exists()


def test_ctrl_c_cancels_where_nobody_can_be_asked(environment, client, folder, tmp_path):
    files = [str(folder / "digits.pt2"), str(folder / "digits.npz")]
    command = [*COMMAND, "compress", *files, "--recipe", str(folder / "long.yaml"), "--out", str(tmp_path)]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **streams) as process:
        seen = []
        for line in process.stderr:
            seen.append(line.strip())
            if line.startswith("distilling"):
                break
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 5, rest
    (job,) = client.get_jobs(label="kind:long")
    assert job.get_status().state == "cancelled"


@pytest.mark.long
def test_the_names_of_ai_hub_lead_through_a_job(client, folder, tmp_path):
    model = client.upload_model(torch.export.load(folder / "digits.pt2"), name="digits")
    dataset = client.upload_dataset(folder / "digits.npz")
    job = client.submit_quantize_job(model, dataset, name="int8", step={"samples": 128})
    states = []
    status = job.wait(on_event=lambda event: states.append(event.data.get("state")))
    assert (status.code, status.success, status.finished, status.running) == ("SUCCESS", True, True, False)
    assert [state for state in states if state] == ["queued", "running", "succeeded"]
    assert job.result() is job
    assert client.get_job(job.job_id).summary == job.summary
    target = job.get_target_model()
    assert target.origin == {"job_id": job.job_id, "model_id": model.model_id}
    assert job.get_target_model().id == target.id
    result = job.download_results(tmp_path / "all")
    assert {path.name for path in result.files} >= ARTIFACTS
    assert job.download_target_model(tmp_path / "small").name == "small.onnx"
    assert target.download(tmp_path / "again").read_bytes() == (tmp_path / "all" / "model.pt2").read_bytes()
    assert job.download_profile()["compressed"][0]["p50_ms"] > 0
    assert "# " in job.get_report("markdown")
    assert job.download_job_logs(tmp_path)[0].read_text() == job.get_logs()
    with pytest.raises(winnow.Conflict, match="job_ended"):
        job.cancel()


@pytest.mark.long
def test_a_profile_job_times_the_model_as_it_is(client, folder):
    job = client.submit_profile_job(folder / "digits.pt2", dataset=folder / "digits.npz")
    profile = job.download_profile()
    assert profile["baseline"][0]["p50_ms"] > 0
    assert Path(folder / "digits.pt2").stem == job.name
