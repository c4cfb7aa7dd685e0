"""What is tried again, what is not, and how errors read."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import winnow

from app.db import models
from app.domain.errors import CorruptFile, Diverged
from app.domain.job import JobState
from tests.clients.flaky import CUT
from tests.factories import pt2
from tests.serving import PROMPT_SECONDS

EMPTY = (200, {}, {"items": [], "next_cursor": None})
ACCEPTED = (202, {}, {"id": "job_1", "name": "", "state": "queued", "stage": None, "progress": 0, "failure": None})


def refused(status, code, **headers):
    return status, {"Content-Type": "application/problem+json", **headers}, {"code": code, "detail": "No."}


def test_a_limit_is_waited_for_as_long_as_the_service_says(stubborn, flaky):
    flaky.answers = [refused(429, "rate_limited", **{"Retry-After": "1"}), EMPTY]
    began = time.monotonic()
    assert stubborn.get_models() == []
    assert 1 <= time.monotonic() - began < PROMPT_SECONDS
    assert len(flaky.requests) == 2


@pytest.mark.parametrize("answer", [refused(503, "unavailable", **{"Retry-After": "0"}), CUT])
def test_what_may_pass_is_tried_again(stubborn, flaky, answer):
    flaky.answers = [answer, answer, EMPTY]
    assert stubborn.get_models() == []
    assert len(flaky.requests) == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(422, "validation_failed"), winnow.Invalid),
        (refused(404, "not_found"), winnow.NotFound),
        (refused(401, "unauthenticated"), winnow.Unauthenticated),
        (refused(403, "forbidden"), winnow.Forbidden),
        (refused(429, "quota_reached", **{"Retry-After": "1"}), winnow.RateLimitedError),
        (refused(500, "internal_error"), winnow.InternalError),
    ],
)
def test_what_another_try_does_not_mend_is_told_at_once(stubborn, flaky, answer, error):
    flaky.answers = [answer]
    with pytest.raises(error) as caught:
        stubborn.get_models()
    assert caught.value.code == answer[2]["code"]
    assert len(flaky.requests) == 1


def test_it_gives_up_after_as_many_tries_as_were_allowed(stubborn, flaky):
    flaky.answers = [CUT]
    with pytest.raises(winnow.ConnectionFailed, match="cannot be reached"):
        stubborn.get_models()
    assert len(flaky.requests) == 4


def test_a_post_whose_answer_was_lost_is_sent_again_under_its_key(stubborn, flaky):
    in_flight = refused(409, "idempotency_in_flight")
    flaky.answers = [CUT, in_flight, ACCEPTED]
    job = winnow.Job(stubborn._transport, ACCEPTED[2])
    assert job.retry().pending
    keys = [headers["Idempotency-Key"] for _, _, headers in flaky.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    job.retry()
    assert flaky.requests[-1][2]["Idempotency-Key"] != keys[0]


def test_what_is_still_at_work_is_waited_for_however_often_it_says_so(stubborn, flaky):
    at_work = refused(409, "idempotency_in_flight", **{"Retry-After": "0"})
    flaky.answers = [CUT, *[at_work] * 10, ACCEPTED]
    assert winnow.Job(stubborn._transport, ACCEPTED[2]).retry().pending
    assert len(flaky.requests) == 12


def test_a_deletion_whose_answer_was_lost_has_been_done(stubborn, flaky):
    flaky.answers = [CUT, refused(404, "not_found")]
    winnow.Job(stubborn._transport, ACCEPTED[2]).delete()
    assert [method for method, _, _ in flaky.requests] == ["DELETE"] * 2
    with pytest.raises(winnow.NotFound):
        winnow.Job(stubborn._transport, ACCEPTED[2]).delete()


def test_a_client_of_little_patience_waits_and_listens_for_as_long_as_it_is_told_to(project):
    with winnow.Client(project.server.url, project.key, retries=0, timeout=0.3) as hasty:
        job = hasty.get_job(project.queued())
        with pytest.raises(TimeoutError, match="is queued after 1"):
            job.wait(timeout=1)
        with ThreadPoolExecutor() as pool:
            listening = pool.submit(list, job.events())
            with pytest.raises(TimeoutError):
                listening.result(1)
            project.client.post(f"jobs/{job.id}:cancel")
            assert [event.data["state"] for event in listening.result()] == ["queued", "cancelled"]


def test_streams_that_end_at_once_are_not_asked_for_without_a_pause(flaky):
    running = {**ACCEPTED[2], "state": "running"}
    stream = (200, {"Content-Type": "text/event-stream"}, b"")
    flaky.answers = [*[stream, (200, {}, running)] * 20, stream, (200, {}, {**running, "state": "succeeded"})]
    with winnow.Client(flaky.url, "key", retries=0) as client:
        client._transport._backoff = 0.01
        began = time.monotonic()
        assert list(winnow.Job(client._transport, running).events()) == []
    # Each pause is at least half of what the backoff has come to.
    assert time.monotonic() - began > 0.01 / 2 * (1 + 2 + 4 + 8 + 16 + 15 * 32)


def test_what_happens_is_told_where_a_wait_has_an_end_too(client, project):
    job, seen = client.get_job(project.queued()), []
    project.claim(job.id)
    for number in range(250):
        project.report_event(job.id, "log", {"level": "info", "message": str(number)})
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.1, on_event=seen.append)
    project.finish(job.id)
    assert job.wait(timeout=5, on_event=seen.append).success
    assert [event.id for event in seen] == [*range(1, 253), *range(1, 254)]


def test_a_refusal_carries_all_that_the_service_says(client, project):
    model, dataset = project.add_model(), project.add_dataset()
    with pytest.raises(winnow.Invalid) as caught:
        client.submit_job(client.get_model(model), client.get_dataset(dataset), [{"method": "shrink"}])
    error = caught.value
    assert (error.status, error.code) == (422, "unknown_method")
    assert [it.pointer for it in error.errors] == ["/recipe/0/method"]
    assert "shrink" in error.errors[0].message
    assert error.title
    assert error.request_id.startswith("req_")
    assert isinstance(error, winnow.UserError)
    assert isinstance(error, winnow.Error)


def test_lists_are_read_over_pages(client, project):
    ids = [project.queued(labels={"n": str(n % 2)}) for n in range(3)][::-1]
    assert [job.job_id for job in client.get_jobs()] == ids
    assert [job.id for job in client.get_jobs(offset=1, limit=1)] == ids[1:2]
    assert [job.id for job in client.get_jobs(label="n:0", state="queued")] == [ids[0], ids[2]]
    assert client.get_jobs(state="running") == []
    assert client.get_jobs(limit=0) == []


def test_a_job_is_followed_and_its_end_told(client, project):
    job = client.get_job(project.queued(name="small"))
    assert (job.name, job.get_status().pending) == ("small", True)
    with pytest.raises(TimeoutError, match="is queued after 0"):
        job.wait(timeout=0)
    project.claim(job.id)
    project.report_event(job.id, "stage", {"stage": "pruning"})
    project.finish(job.id, JobState.FAILED, Diverged("It diverged.", hint="Go slower.").failure())
    seen = []
    status = job.wait(on_event=seen.append)
    assert (status.code, status.failure, status.message) == ("FAILED", True, "It diverged.")
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert {"stage": "pruning"} in [event.data for event in seen]
    with pytest.raises(winnow.JobFailed, match=r"It diverged\. Go slower\.") as caught:
        job.result()
    assert (caught.value.code, caught.value.state) == ("diverged", "failed")
    assert job.download_target_model("nowhere") is None
    assert job.get_target_model() is None


def test_a_rejected_upload_is_told_with_its_reason(client, project):
    model = client.get_model(project.upload("models", pt2()).json()["id"])
    with project.server.parts.sessions.begin() as session:
        assert models.finish_inspection(session, model.id, CorruptFile("It is damaged.").failure())
    with pytest.raises(winnow.Rejected, match="It is damaged") as caught:
        model.wait()
    assert (caught.value.code, caught.value.object_id) == ("corrupt_file", model.id)


def test_what_is_no_id_leads_nowhere_else(client):
    for job_id in ("../models", "job_1?wait=9", "a\x03b/c"):
        with pytest.raises(winnow.NotFound):
            client.get_job(job_id)


def test_devices_and_methods_are_listed(client):
    (device,) = client.get_devices()
    assert (device.name, device.formats) == (winnow.DEVICE, ["onnx"])
    assert client.get_devices("another") == []
    assert {"prune", "quantize"} <= {method.name for method in client.get_methods()}
