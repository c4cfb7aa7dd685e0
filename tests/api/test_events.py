import json
import threading
import time

import httpx
import pytest

from tests.serving import PROMPT_SECONDS, problem

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def job_id(project):
    """Give a running job of seven events."""
    job_id = project.queued()
    project.claim(job_id)
    project.report_event(job_id, "stage", {"stage": "pruning"})
    project.report_event(job_id, "log", {"level": "info", "message": "loaded\u2028the network"})
    project.report_event(job_id, "progress", {"fraction": 0.5, "message": "half"})
    project.report_event(job_id, "metric", {"name": "loss", "step": 1, "value": 0.25})
    project.report_event(job_id, "log", {"level": "warning", "message": "slow"})
    return job_id


def read_stream(project, job_id, **headers):
    """Read a stream to its end as (id, event, data)."""
    found, fields = [], {}
    with project.client.stream("GET", f"jobs/{job_id}/events", headers=STREAM | headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in "".join(response.iter_text()).split("\n"):
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
    return found


def test_events_are_listed_oldest_first_and_paged(project, job_id):
    whole = project.client.get(f"jobs/{job_id}/events").json()
    assert [event["id"] for event in whole["items"]] == list(range(1, 8))
    assert whole["next_cursor"] is None
    assert [event["type"] for event in whole["items"]] == [
        "state", "state", "stage", "log", "progress", "metric", "log",
    ]  # fmt: skip
    assert whole["items"][0]["data"]["state"] == "queued"
    assert whole["items"][4]["data"] == {"fraction": 0.5, "message": "half"}
    page = project.client.get(f"jobs/{job_id}/events", params={"limit": 3}).json()
    assert page["next_cursor"] == "3"
    rest = project.client.get(f"jobs/{job_id}/events", params={"after": page["next_cursor"]}).json()
    assert page["items"] + rest["items"] == whole["items"]
    for query in ({"after": -1}, {"after": "x"}, {"after": 2**31}, {"limit": 0}):
        problem(project.client.get(f"jobs/{job_id}/events", params=query), 422, "validation_failed")


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("application/json, text/event-stream", True),
        ("text/event-stream, */*", True),
        ("text/event-stream;q=0", False),
        ("application/json, text/event-stream;q=0.1", False),
        ("*/*", False),
        ("text/*", False),
        ("image/png", False),
    ],
)
def test_events_are_streamed_to_who_asks_for_that_and_listed_to_all_others(project, job_id, accept, streams):
    with project.client.stream("GET", f"jobs/{job_id}/events", headers={"Accept": accept}) as response:
        found = response.headers["content-type"].partition(";")[0]
    assert found == ("text/event-stream" if streams else "application/json")


def test_a_stream_follows_a_job_to_its_end(project, job_id):
    began = time.monotonic()
    threading.Timer(0.5, project.finish, [job_id]).start()
    events = read_stream(project, job_id)
    assert 0.4 < time.monotonic() - began < PROMPT_SECONDS
    listed = project.client.get(f"jobs/{job_id}/events").json()["items"]
    assert [(event["id"], event["type"], event) for event in listed] == events
    assert events[-1][2]["data"]["state"] == "succeeded"


def test_a_stream_is_taken_up_after_the_last_event_that_came(project, job_id):
    project.finish(job_id)
    assert [event[0] for event in read_stream(project, job_id, **{"Last-Event-ID": "5"})] == [6, 7, 8]
    assert read_stream(project, job_id, **{"Last-Event-ID": "8"}) == []
    for header in ("-1", "x", "9" * 40):
        headers = STREAM | {"Last-Event-ID": header}
        problem(project.client.get(f"jobs/{job_id}/events", headers=headers), 400, "malformed_request")


def test_an_event_comes_while_it_happens(project, job_id):
    with project.client.stream(
        "GET", f"jobs/{job_id}/events", headers=STREAM | {"Last-Event-ID": "7"}, timeout=httpx.Timeout(PROMPT_SECONDS)
    ) as response:
        threading.Timer(0.2, project.report_event, [job_id, "log", {"level": "info", "message": "now"}]).start()
        assert "now" in next(text for text in response.iter_text() if "now" in text)


def test_logs_are_plain_text_and_outlive_the_job(project, job_id):
    project.finish(job_id)
    response = project.client.get(f"jobs/{job_id}/logs")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    lines = response.text.removesuffix("\n").split("\n")
    assert [line.partition(" ")[2] for line in lines] == ["info loaded\u2028the network", "warning slow"]
    problem(project.client.get(f"jobs/{job_id}/logs", headers={"Accept": "image/png"}), 406, "not_acceptable")


def test_a_job_without_log_lines_has_an_empty_log(project):
    assert project.client.get(f"jobs/{project.queued()}/logs").text == ""
