"""Requests that no endpoint takes: paths, methods, queries and bodies; nothing is left behind."""

import json

import pytest

from app.domain.ids import Prefix, new_id
from tests.api.operations import operations
from tests.factories import npz, pt2
from tests.serving import MAX_BODY_BYTES, OCTETS, pointers, problem, slowly


def test_errors_of_the_framework(project):
    client, root = project.client, project.server.url
    problem(client.get(f"{root}/nowhere"), 404, "not_found")
    problem(client.get("models/a/b/c"), 404, "not_found")
    problem(client.post("models/", params={"name": "m"}, content=pt2()), 404, "not_found")
    response = client.put("models")
    problem(response, 405, "method_not_allowed")
    assert set(response.headers["allow"].replace(" ", "").split(",")) == {"GET", "HEAD", "POST"}
    problem(client.post(f"{root}/healthz"), 405, "method_not_allowed")
    for query in ({"limit": 0}, {"limit": 201}, {"limit": "many"}, {"cursor": "job_x"}, {"cursor": "\0"}):
        body = problem(client.get("models", params=query), 422, "validation_failed")
        assert pointers(body) == [f"/query/{next(iter(query))}"]
    for query in ({"state": "lost"}, {"label": "nocolon"}, {"label": "a:\0"}, {"model_id": "\0"}):
        body = problem(client.get("jobs", params=query), 422, "validation_failed")
        assert pointers(body) == [f"/query/{next(iter(query))}"]
    problem(client.get(f"jobs/{new_id(Prefix.JOB)}", params={"wait": 61}), 422, "validation_failed")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", operations(), ids=str)
def test_a_parameter_that_no_operation_has(project, operation):
    path = operation.path.format(**dict.fromkeys(operation.parameters, "x"))
    query = {**dict.fromkeys(operation.needed, "n"), "nope": "1"}
    body = problem(project.client.request(operation.method, path, params=query), 422, "validation_failed")
    assert pointers(body) == ["/query/nope"]


def test_a_parameter_that_is_given_twice(project):
    for path in ("jobs?state=queued&state=failed", "jobs?label=a:b&label=c:d", "models?limit=1&limit=1"):
        body = problem(project.client.get(path), 422, "validation_failed")
        assert pointers(body) == [f"/query/{path.partition('?')[2].partition('=')[0]}"]
        assert "more than once" in body["errors"][0]["message"]
    jobs = [project.queued(), project.queued()]
    body = problem(project.client.get("comparisons", params={"job_id": jobs}), 409, "no_report")
    assert "report" in body["detail"], "where several are asked for, several may be given"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["%ed%a0%80", "a%ff", "%c3"])
def test_a_name_that_is_no_text(project, name):
    for noun, content in (("models", pt2()), ("datasets", npz())):
        url = f"{project.client.base_url}{noun}?name={name}"
        response = project.client.post(url, content=content, headers=OCTETS)
        assert pointers(problem(response, 422, "validation_failed")) == ["/query/name"]
    # In JSON it can be written, as half of a pair.
    text = json.dumps({"model_id": "m", "dataset_id": "d", "recipe": [{"method": "prune"}], "name": "a\ud800"})
    response = project.client.post("jobs", content=text, headers={"Content-Type": "application/json"})
    assert pointers(problem(response, 422, "validation_failed")) == ["/name"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe", b'{"name": "\xff"}', b"[" * 60_000, b'{"seed": ' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_not_json(project, content):
    response = project.client.post("jobs", content=content, headers={"Content-Type": "application/json"})
    problem(response, 400 if content else 422, "malformed_request" if content else "validation_failed")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"'])
def test_values_that_json_has_no_words_for(project, value):
    text = json.dumps({"model_id": "m", "dataset_id": "d", "recipe": [{"method": "prune", "amount": 0}]})
    response = project.client.post(
        "jobs", content=text.replace(": 0", f": {value}"), headers={"Content-Type": "application/json"}
    )
    assert pointers(problem(response, 422, "validation_failed")) == ["/recipe/0/amount"]


@pytest.mark.usefixtures("unchanged")
def test_a_job_that_is_not_sent_as_json(project):
    for headers in ({"Content-Type": "text/plain"}, {}):
        response = project.client.post("jobs", content=b"{}", headers=headers)
        problem(response, 415, "unsupported_media_type")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("send", [bytes, slowly], ids=["announced", "chunked"])
def test_a_body_over_the_limit(project, send):
    for path in ("jobs", f"jobs/{new_id(Prefix.JOB)}:cancel", "nowhere"):
        response = project.client.post(path, content=send(bytes(MAX_BODY_BYTES + 1)))
        assert str(MAX_BODY_BYTES) in problem(response, 413, "too_large")["detail"]
