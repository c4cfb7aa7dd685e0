"""What one project may take of the service, where the operator set limits."""

import pytest

from tests.factories import npz, pt2
from tests.serving import pointers, problem, serving

MOST_BYTES = 12_000


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    limits = {"max_active_jobs": 2, "max_project_bytes": MOST_BYTES}
    with serving(tmp_path_factory.mktemp("strict"), **limits) as server:
        yield server


@pytest.fixture
def tenant(strict):
    tenant = strict.project()
    yield tenant
    tenant.client.close()


def limited(response, code):
    body = problem(response, 429, code)
    assert int(response.headers["retry-after"]) > 0
    return body


def test_requests_over_the_rate_are_refused_for_that_project_alone(tmp_path):
    with serving(tmp_path, max_requests_per_minute=5) as server:
        busy, calm = server.project(), server.project()
        answers = [busy.client.get("models") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert "5 requests a minute" in limited(answers[-1], "rate_limited")["detail"]
        assert int(answers[-1].headers["retry-after"]) <= 60
        assert calm.client.get("models").status_code == 200
        for project in (busy, calm):
            project.client.close()


def test_jobs_that_have_not_ended_are_bounded(tenant):
    model, dataset = tenant.add_model(), tenant.add_dataset()
    first, _ = (tenant.queued(model_id=model, dataset_id=dataset) for _ in range(2))
    assert "2 jobs" in limited(tenant.submit(model, dataset), "too_many_jobs")["detail"]
    assert len(tenant.client.get("jobs").json()["items"]) == 2
    assert tenant.client.post(f"jobs/{first}:cancel").status_code == 202
    tenant.queued(model_id=model, dataset_id=dataset)
    limited(tenant.client.post(f"jobs/{first}:retry"), "too_many_jobs")


def test_stored_bytes_are_bounded(tenant):
    content = pt2()
    first = tenant.upload("models", content).json()["id"]
    room = MOST_BYTES - len(content)
    sizes = [len(content)]
    while room > 0:
        data = npz()
        response = tenant.upload("datasets", data)
        if response.status_code != 201:
            break
        sizes.append(len(data))
        room -= len(data)
    body = limited(response, "quota_reached")
    assert str(MOST_BYTES) in body["detail"]
    assert tenant.client.get("usage").json()["stored_bytes"] == sum(sizes) <= MOST_BYTES
    assert tenant.kept()[0] == len(sizes)
    again = tenant.upload("models", content)  # takes no room
    assert again.status_code == 201
    for model in (first, again.json()["id"]):
        tenant.client.delete(f"models/{model}")
    assert tenant.upload("datasets", npz()).status_code == 201


def test_a_file_that_no_empty_project_could_hold(tenant):
    before = tenant.kept()
    body = problem(tenant.upload("models", bytes(MOST_BYTES + 1)), 413, "too_large")
    assert str(MOST_BYTES) in body["detail"]
    assert tenant.kept() == before


def test_without_settings_nothing_is_limited(project):
    assert {project.client.get("models").status_code for _ in range(100)} == {200}


def test_a_parameter_that_the_endpoint_does_not_have(project):
    job = project.queued()
    for path, query in (("models", "stat"), ("jobs", "modelid"), (f"jobs/{job}", "limit"), ("usage", "a/b~")):
        body = problem(project.client.get(path, params={query: "x"}), 422, "validation_failed")
        assert pointers(body) == [f"/query/{query.replace('~', '~0').replace('/', '~1')}"]
    problem(project.client.post(f"jobs/{job}:cancel", params={"force": "true"}), 422, "validation_failed")
    assert project.client.get(f"jobs/{job}").json()["state"] == "queued"
    problem(project.upload("models", pt2(), params={"nam": "x"}), 422, "validation_failed")
