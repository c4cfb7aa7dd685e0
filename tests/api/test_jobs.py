import threading
import time

import pytest

from app.domain.errors import Diverged
from app.domain.job import JobState
from tests.factories import FINETUNE, PRUNE, QUANTIZE
from tests.serving import PROMPT_SECONDS, every, problem


def test_a_job_is_taken_with_every_default_and_its_place_in_the_queue(project):
    response = project.submit(recipe=[PRUNE, FINETUNE, QUANTIZE], labels={"team": "vision"}, name="edge")
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert int(response.headers["retry-after"]) > 0
    assert (job["name"], job["state"], job["stage"], job["progress"]) == ("edge", "queued", None, 0)
    assert [step["method"] for step in job["recipe"]] == ["prune", "finetune", "quantize"]
    assert job["recipe"][0]["criterion"] == "l2"
    assert (job["target"], job["queue"], job["priority"], job["seed"]) == ("onnxruntime-cpu", "cpu", 5, 0)
    assert (job["attempt"], job["time_limit_seconds"], job["labels"]) == (1, 3600, {"team": "vision"})
    assert job["queue_position"] >= 1
    for absent in ("started_at", "ended_at", "worker", "summary", "failure", "eta_seconds", "objective"):
        assert job[absent] is None
    assert project.client.get(f"jobs/{job['id']}").json() == job


def test_the_queue_serves_by_priority_then_by_age(project):
    # On a queue of its own, which no other test uses.
    model, dataset = project.add_model(), project.add_dataset()
    ids = [project.queued(model_id=model, dataset_id=dataset, queue="gpu", priority=priority) for priority in (5, 5, 9)]
    positions = [project.client.get(f"jobs/{job}").json()["queue_position"] for job in ids]
    assert positions == [2, 3, 1]
    project.claim(ids[2])
    assert project.client.get(f"jobs/{ids[2]}").json()["queue_position"] is None
    assert project.client.get(f"jobs/{ids[0]}").json()["queue_position"] == 1


def test_jobs_are_listed_newest_first_paged_and_filtered(project):
    model, other, dataset = project.add_model(), project.add_model(), project.add_dataset()
    labels = [{"team": "vision"}, {"team": "vision", "round": "2"}, {"team": "speech"}]
    ids = [project.queued(model_id=model, dataset_id=dataset, labels=label) for label in labels]
    ids.append(project.queued(model_id=other, dataset_id=dataset))
    project.claim(ids[0])

    def listed(**query):
        return [item["id"] for item in project.client.get("jobs", params=query).json()["items"]]

    assert listed() == ids[::-1]
    assert listed(state="running") == ids[:1]
    assert listed(model_id=other) == ids[3:]
    assert listed(label="team:vision") == [ids[1], ids[0]]
    assert listed(label="round:2", state="queued") == [ids[1]]
    assert listed(label="team:none") == []
    # The first colon ends the key.
    ids.append(project.queued(model_id=model, dataset_id=dataset, labels={"team": "vision:edge"}))
    assert listed(label="team:vision:edge") == ids[-1:]
    assert [item["id"] for item in every(project.client, "jobs", limit=3)] == ids[::-1]


def test_a_running_job_shows_where_it_stands(project):
    job_id = project.queued()
    project.claim(job_id)
    project.report_event(job_id, "stage", {"stage": "pruning"})
    project.report_event(job_id, "progress", {"fraction": 0.25, "message": "half", "eta_seconds": 9.5})
    job = project.client.get(f"jobs/{job_id}").json()
    assert (job["state"], job["stage"], job["progress"], job["eta_seconds"]) == ("running", "pruning", 0.25, 9.5)
    assert job["worker"] == "cpu@test"
    assert job["started_at"] >= job["created_at"]
    project.finish(job_id, JobState.FAILED, Diverged("The loss is NaN.").failure(), {"size_ratio": 2.0})
    job = project.client.get(f"jobs/{job_id}").json()
    assert (job["state"], job["stage"], job["summary"]) == ("failed", None, {"size_ratio": 2.0})
    assert job["failure"] == {
        "code": "diverged",
        "class": "user",
        "title": "Training diverged",
        "detail": "The loss is NaN.",
        "hint": None,
    }


def test_a_wait_ends_as_soon_as_the_state_changes(project):
    job_id = project.queued()
    began = time.monotonic()
    threading.Timer(0.3, project.claim, [job_id]).start()
    assert project.client.get(f"jobs/{job_id}", params={"wait": 60}).json()["state"] == "running"
    assert 0.2 < time.monotonic() - began < PROMPT_SECONDS


def test_a_wait_ends_with_its_time_or_at_once_where_nothing_is_to_come(project):
    job_id = project.queued()
    began = time.monotonic()
    assert project.client.get(f"jobs/{job_id}", params={"wait": 0.4}).json()["state"] == "queued"
    assert 0.35 < time.monotonic() - began < PROMPT_SECONDS
    project.client.post(f"jobs/{job_id}:cancel")
    began = time.monotonic()
    assert project.client.get(f"jobs/{job_id}", params={"wait": 60}).json()["state"] == "cancelled"
    assert time.monotonic() - began < PROMPT_SECONDS


def test_a_queued_job_is_cancelled_at_once_and_only_once(project):
    job_id = project.queued()
    response = project.client.post(f"jobs/{job_id}:cancel")
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/v1/jobs/{job_id}"
    assert response.json()["state"] == "cancelled"
    assert response.json()["ended_at"]
    problem(project.client.post(f"jobs/{job_id}:cancel"), 409, "job_ended")


def test_a_running_job_is_asked_to_end(project):
    job_id = project.queued()
    project.claim(job_id)
    for _ in range(2):
        assert project.client.post(f"jobs/{job_id}:cancel").json()["state"] == "cancelling"
    project.finish(job_id, JobState.CANCELLED)
    problem(project.client.post(f"jobs/{job_id}:cancel"), 409, "job_ended")


@pytest.mark.parametrize("state", [state for state in JobState if state.ended])
def test_a_job_that_ended_can_be_removed_with_what_it_left(project, state):
    job_id = project.queued()
    before = project.kept()
    project.claim(job_id)
    project.add_artifact(job_id, "model.onnx", state.encode())
    if state is JobState.CANCELLED:
        project.client.post(f"jobs/{job_id}:cancel")
    problem(project.client.delete(f"jobs/{job_id}"), 409, "conflict")
    project.finish(job_id, state)
    assert project.client.delete(f"jobs/{job_id}").status_code == 204
    problem(project.client.get(f"jobs/{job_id}"), 404, "not_found")
    assert project.kept()[0] == before[0]  # the model and the data set stay


def test_artifacts_are_listed_by_name(project):
    job_id = project.queued()
    ids = {name: project.add_artifact(job_id, name, name.encode()) for name in ("report.json", "model.onnx")}
    items = project.client.get(f"jobs/{job_id}/artifacts").json()["items"]
    assert [item["name"] for item in items] == ["model.onnx", "report.json"]
    assert items[0] == project.client.get(f"artifacts/{ids['model.onnx']}").json()
    assert items[0]["job_id"] == job_id
    assert (items[0]["kind"], items[0]["format"], items[0]["size_bytes"]) == ("model", "onnx", 10)


def test_a_report_is_given_as_json_where_nothing_else_is_liked_better(project):
    job_id = project.queued()
    problem(project.client.get(f"jobs/{job_id}/report"), 404, "not_found")
    project.add_artifact(job_id, "report.json", b'{"seed": 7}', kind="report")
    for accept in ("*/*", "application/json", "application/*;q=0.5", "text/html, application/json"):
        response = project.client.get(f"jobs/{job_id}/report", headers={"Accept": accept})
        assert response.json() == {"seed": 7}
        assert response.headers["content-type"] == "application/json"
    for accept in ("image/png", "application/json;q=0, image/png"):
        response = project.client.get(f"jobs/{job_id}/report", headers={"Accept": accept})
        problem(response, 406, "not_acceptable")


FORMS = {"report.json": b'{"seed": 7}', "report.html": b"<!DOCTYPE html>", "model-card.md": b"# digits"}


@pytest.fixture
def reported(project):
    """Give a way to ask for the report of a job that left all three forms."""
    job_id = project.queued()
    for name, written in FORMS.items():
        project.add_artifact(job_id, name, written, kind="report")
    return lambda accept: project.client.get(f"jobs/{job_id}/report", headers={"Accept": accept})


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("*/*", "report.json"),
        ("text/html, application/json", "report.json"),
        ("text/html", "report.html"),
        ("TEXT/HTML", "report.html"),
        ("text/*", "report.html"),
        # What Firefox and Chromium send.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "report.html"),
        ("text/html;q=0.5, text/markdown;q=0.9", "model-card.md"),
        ("text/html;q=0, */*", "report.json"),
        ("application/json;q=0, */*;q=0.5", "report.html"),
        ("text/*, text/html;q=0", "model-card.md"),
        ("text/markdown;q=0.4, */*;q=0.3", "model-card.md"),
    ],
)
def test_the_form_of_a_report_is_the_one_that_is_liked_best(reported, accept, name):
    response = reported(accept)
    assert (response.status_code, response.content) == (200, FORMS[name])
    media_type = {"json": "application/json", "html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8"}
    assert response.headers["content-type"] == media_type[name.rpartition(".")[2]]
    assert response.headers["vary"] == "Accept"
    assert name in response.headers["content-disposition"]


@pytest.mark.parametrize("accept", ["image/png", "*/*;q=0", "text/*;q=0", "application/xml", ""])
def test_a_report_in_a_form_that_there_is_not_is_refused(reported, accept):
    problem(reported(accept), 406, "not_acceptable")


def test_a_form_that_this_job_did_not_leave_is_refused_by_name(project):
    job_id = project.queued()
    problem(project.client.get(f"jobs/{job_id}/report", headers={"Accept": "text/html"}), 404, "not_found")
    project.add_artifact(job_id, "report.json", FORMS["report.json"], kind="report")
    refused = project.client.get(f"jobs/{job_id}/report", headers={"Accept": "text/html"})
    assert problem(refused, 406, "not_acceptable")["detail"] == "This can be given as application/json alone."
    assert project.client.get(f"jobs/{job_id}/report", headers={"Accept": "text/html, */*;q=0.1"}).json() == {"seed": 7}


def test_a_page_may_be_looked_at_and_does_nothing(reported):
    for accept in ("text/html", "text/markdown"):
        headers = reported(accept).headers
        policy = [part.strip() for part in headers["content-security-policy"].split(";")]
        assert {"sandbox", "default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} <= set(policy)
        assert not [part for part in policy if part.startswith("script") or "allow" in part]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-disposition"].startswith("inline;")
    assert reported("application/json").headers["x-content-type-options"] == "nosniff"


def test_an_id_that_no_header_can_hold_is_no_fault_of_the_service(project):
    for action in ("cancel", "retry"):
        problem(project.client.post(f"jobs/5%C3%A5%03p%F4%86%A9%9E:{action}"), 404, "not_found")


def test_an_action_allows_what_it_is_for(project):
    response = project.client.request("OPTIONS", "jobs/job_1:cancel")
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert project.client.request("OPTIONS", "jobs/job_1").headers["allow"] == "GET, DELETE, HEAD"


def test_what_is_remembered_of_a_model_and_a_data_set_is_no_way_to_them(project, foreign):
    """Facts are kept between submissions: whether the inputs are there, and whose, is asked each time."""
    body = {"model_id": project.add_model(), "dataset_id": project.add_dataset(), "recipe": [PRUNE]}
    job = project.client.post("jobs", json=body).json()["id"]
    for noun in ("model_id", "dataset_id"):
        theirs = {"model_id": foreign.add_model(), "dataset_id": foreign.add_dataset(), "recipe": [PRUNE]}
        found = problem(foreign.client.post("jobs", json={**theirs, noun: body[noun]}), 404, "not_found")
        assert found["errors"][0]["pointer"] == f"/{noun}"
    project.client.post(f"jobs/{job}:cancel")
    assert project.client.delete(f"jobs/{job}").status_code == 204
    assert project.client.delete(f"models/{body['model_id']}").status_code == 204
    found = problem(project.client.post("jobs", json=body), 404, "not_found")
    assert found["errors"][0]["pointer"] == "/model_id"
