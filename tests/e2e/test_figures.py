"""What a job's figures rest on: the same bytes from another process, a signed list, a measurement to repeat."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from app.embedded import broker_socket
from tests.workers.site import until

WINNOWD = [sys.executable, "-m", "app.cli"]


@pytest.fixture(scope="module")
def jobs(service, digits):
    """Run one job twice, at once and so on two worker processes; give both as they ended."""
    environment = os.environ | {
        "WINNOW_DATA": str(service.data),
        "WINNOW_BROKER_URL": f"redis+socket://{broker_socket(service.data)}",
    }
    with subprocess.Popen([*WINNOWD, "worker", "--queue", "cpu"], env=environment) as worker:
        try:
            # Else the first worker may have done with one by the time the second has started, and take the other too.
            metrics = f"http://127.0.0.1:{service.port}/metrics"
            until(lambda: 'winnow_workers{queue="cpu"} 2.0' in service.client.get(metrics).text.splitlines())
            ids = [service.submit(*digits) for _ in range(2)]
            ended = [service.wait(job, seconds=280) for job in ids]
        finally:
            worker.terminate()
    assert [job["state"] for job in ended] == ["succeeded", "succeeded"], [job["failure"] for job in ended]
    assert len({job["worker"] for job in ended}) == 2
    return ended


def artifacts(service, job):
    return {item["name"]: item for item in service.get(f"jobs/{job['id']}/artifacts")["items"]}


@pytest.fixture(scope="module")
def downloaded(service, jobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloaded")
    for name, item in artifacts(service, jobs[0]).items():
        (folder / name).write_bytes(service.client.get(f"artifacts/{item['id']}/content").content)
    return folder


def test_two_worker_processes_give_the_same_bytes(service, jobs):
    one, other = (artifacts(service, job) for job in jobs)
    for name in ("model.onnx", "model.pt2"):
        assert one[name]["sha256"] == other[name]["sha256"], name


def test_a_downloaded_folder_is_verified_offline(service, downloaded):
    key = service.get("signing-key")["public_key"]
    verify = [*WINNOWD, "verify", str(downloaded), "--key", key]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    content = (downloaded / "model.onnx").read_bytes()
    (downloaded / "model.onnx").write_bytes(content[:-1] + b"\0")
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    (downloaded / "model.onnx").write_bytes(content)
    assert done.returncode == 1
    assert "model.onnx is not what the job left" in done.stderr


def test_the_report_tells_where_time_goes_and_how_steady_it_was(downloaded):
    report = json.loads((downloaded / "report.json").read_text())
    for side in ("baseline", "compressed"):
        latency = report[side]["latency"][0]
        assert latency["p25_ms"] <= latency["p50_ms"] <= latency["p75_ms"]
        assert latency["runs"] >= 200 or latency["runs"] * latency["mean_ms"] > 2000
        assert {found["operator"] for found in report[side]["operators"]} & {"Conv", "QLinearConv"}
        assert report[side]["load_ms"] > 0
    assert latency["noisy"] == report["baseline"]["latency"][0]["noisy"]


@pytest.mark.timeout(280)
def test_the_bundle_measures_in_a_fresh_environment(downloaded, tmp_path):
    with zipfile.ZipFile(downloaded / "benchmark.zip") as bundle:
        bundle.extractall(tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    # The pip beside the interpreter that made this environment: Debian keeps ensurepip in a package of its own.
    pip = [os.path.realpath(sys.executable), "-m", "pip", "--python", python, "install", "--quiet", "--requirement"]
    subprocess.run([*pip, tmp_path / "requirements.txt"], check=True)
    done = subprocess.run(
        [python, "benchmark.py", "--seconds", "1"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[2] for row in rows if row[0] == "1"] == ["baseline.onnx", "model.onnx"]
    assert done.stdout.startswith("rows of ")
    assert "ratio of medians" in done.stdout
