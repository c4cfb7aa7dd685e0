import pytest

from app.domain.errors import ObjectiveMissed
from app.domain.job import JobState
from tests.serving import problem

FAILURE = ObjectiveMissed("Too much was lost.").failure()


def event_ids(project, job):
    return [event["id"] for event in project.client.get(f"jobs/{job}/events").json()["items"]]


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT])
def test_a_job_that_did_not_succeed_can_be_tried_again(project, state):
    job = project.queued()
    if state is JobState.CANCELLED:
        project.client.post(f"jobs/{job}:cancel")
    else:
        project.claim(job)
        project.finish(job, state, FAILURE)
    before = project.client.get(f"jobs/{job}").json()
    assert before["state"] == state
    response = project.client.post(f"jobs/{job}:retry")
    assert (response.status_code, response.headers["location"]) == (202, f"/api/v1/jobs/{job}")
    body = response.json()
    assert (body["state"], body["attempt"], body["failure"], body["ended_at"]) == ("queued", 2, None, None)
    ids = event_ids(project, job)
    assert ids == list(range(1, len(ids) + 1))
    last = project.client.get(f"jobs/{job}/events").json()["items"][-1]
    assert last["data"] == {"state": "queued", "reason": "retry"}
    project.client.post(f"jobs/{job}:cancel")


def test_what_a_failed_attempt_left_goes_with_the_retry_but_for_its_checkpoint(project):
    job = project.queued()
    project.claim(job)
    project.add_artifact(job, "report.json", b"{}", kind="report")
    project.add_artifact(job, "checkpoint.tar", b"epoch 3", kind="checkpoint")
    project.finish(job, JobState.FAILED, FAILURE)
    assert project.client.post(f"jobs/{job}:retry").is_success
    names = [item["name"] for item in project.client.get(f"jobs/{job}/artifacts").json()["items"]]
    assert names == ["checkpoint.tar"]
    assert not project.holds(b"{}")
    assert project.holds(b"epoch 3")
    project.client.post(f"jobs/{job}:cancel")
    assert project.client.delete(f"jobs/{job}").status_code == 204
    assert not project.holds(b"epoch 3")


def test_no_other_job_can_be_tried_again(project, foreign):
    job = project.queued()
    problem(project.client.post(f"jobs/{job}:retry"), 409, "conflict")
    project.claim(job)
    problem(project.client.post(f"jobs/{job}:retry"), 409, "conflict")
    project.finish(job)
    problem(project.client.post(f"jobs/{job}:retry"), 409, "conflict")
    problem(foreign.client.post(f"jobs/{job}:retry"), 404, "not_found")
