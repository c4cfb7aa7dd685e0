import hashlib
import signal
import time

import httpx
import pytest

from app import embedded
from tests.e2e.service import PROMPT_SECONDS, RECIPE, gone

LONG = [{"method": "distill", "teacher": "baseline", "epochs": 500, "learning_rate": 0.001}]


def test_two_jobs_at_once_both_finish_with_reports_and_artifacts(service, digits):
    jobs = [service.submit(*digits, seed=seed) for seed in (0, 1)]
    for job in jobs:
        ended = service.wait(job)
        assert ended["state"] == "succeeded", ended["failure"]
        report = service.get(f"jobs/{job}/report")
        assert [step["method"] for step in report["steps"]] == [step["method"] for step in RECIPE]
        assert ended["summary"]["size_ratio"] == report["delta"]["size_ratio"] > 1
        artifacts = {item["name"]: item for item in service.get(f"jobs/{job}/artifacts")["items"]}
        assert {"model.onnx", "model.pt2", "report.json", "benchmark.zip", "job.log"} <= set(artifacts)
        content = service.client.get(f"artifacts/{artifacts['model.onnx']['id']}/content").content
        assert hashlib.sha256(content).hexdigest() == artifacts["model.onnx"]["sha256"]
    page = service.client.get(f"jobs/{jobs[0]}/report", headers={"Accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.count("<svg ") == 5  # latency, operators, classes, layers and one training
    card = service.client.get(f"jobs/{jobs[0]}/report", headers={"Accept": "text/markdown"}).text
    for noun, upload in zip(("models", "datasets"), digits, strict=True):
        uploaded = service.get(f"{noun}/{upload}")
        assert f"| `{uploaded['name']}` | `{uploaded['sha256']}` |" in card
        assert uploaded["sha256"] in page.text
    log = service.client.get(f"jobs/{jobs[0]}/logs").text
    assert "teacher" in log
    assert "scratch" not in log, "the log tells of the worker's own folders"
    ids = [event["id"] for event in service.get(f"jobs/{jobs[0]}/events", params={"limit": 200})["items"]]
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.long
def test_an_analysis_and_a_prune_that_takes_its_table(service, digits):
    analysis = service.submit(*digits, recipe=[{"method": "prune", "analyze": True, "budget_seconds": 60}])
    ended = service.wait(analysis)
    assert ended["state"] == "succeeded", ended["failure"]
    assert (ended["summary"]["groups"], ended["summary"]["groups_measured"]) == (2, 2)
    artifacts = {item["name"]: item for item in service.get(f"jobs/{analysis}/artifacts")["items"]}
    pages, manifest = {"report.html", "model-card.md"}, {"manifest.json", "manifest.json.sig"}
    assert set(artifacts) == {"sensitivity.json", "report.json", "job.log"} | pages | manifest
    table = service.get(f"artifacts/{artifacts['sensitivity.json']['id']}/content")
    assert service.get(f"jobs/{analysis}/report")["steps"][0]["details"]["sensitivity"] == table
    shown = service.get(f"models/{digits[0]}/layers")["items"]
    groups = {layer["name"]: layer["group"] for layer in shown if layer["prunable"]}
    assert all(groups[layer] == group["group"] for group in table["groups"] for layer in group["layers"])

    job = service.submit(*digits, recipe=[{"method": "prune", "amount": 0.2, "sensitivity": analysis}])
    ended = service.wait(job)
    assert ended["state"] == "succeeded", ended["failure"]
    report = service.get(f"jobs/{job}/report")
    (step,) = report["steps"]
    assert step["details"]["removed_channels"] == 10
    assert {row["layers"][0]: row["amount"] for row in step["details"]["sensitivity"]}.keys() == {"conv1", "conv2"}
    assert report["delta"]["parameters_ratio"] > 1


def engines(service):
    return [process for process in service.family() if "workers.compression" in process.cmdline()]


def training(service, job):
    return service.wait(job, lambda item: item["stage"] == "distilling" and item["state"] == "running")


def test_a_job_cancelled_while_training_ends_at_once(service, digits):
    job = service.submit(*digits, recipe=LONG)
    training(service, job)
    processes = engines(service)
    assert processes
    began = time.monotonic()
    service.post(f"jobs/{job}:cancel")
    service.wait(job)
    assert time.monotonic() - began < PROMPT_SECONDS
    assert service.get(f"jobs/{job}")["state"] == "cancelled"
    assert gone(processes)


def test_a_stop_mid_job_leaves_no_orphan_and_the_next_start_goes_on(service, digits):
    job = service.submit(*digits, recipe=LONG)
    training(service, job)
    with service.client.stream("GET", f"jobs/{job}/events", headers={"Accept": "text/event-stream"}) as stream:
        next(stream.iter_raw())
        family = service.family()
        assert engines(service)
        status, seconds = service.stop()
    assert status == 0
    assert seconds < embedded._STOP_SECONDS  # an open stream does not hold it up until it is killed
    assert gone(family)
    service.start()
    training(service, job)
    service.post(f"jobs/{job}:cancel")
    assert service.wait(job)["state"] == "cancelled"


def test_a_killed_service_leaves_no_orphan_and_the_next_start_goes_on_at_once(service, digits):
    job = service.submit(*digits, recipe=LONG)
    training(service, job)
    family = service.family()
    service.stop(signal.SIGKILL)
    assert gone(family)
    service.start()
    assert httpx.get(f"http://127.0.0.1:{service.port}/readyz").status_code == 200
    # Its lease would last for a minute.
    service.wait(job, lambda item: item["attempt"] == 2 and item["state"] == "running", seconds=40)
    service.post(f"jobs/{job}:cancel")
    assert service.wait(job)["state"] == "cancelled"
