"""A client can draw a form of each method from what the service tells, and send it."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db import workers
from tests.serving import pointers, problem

METHODS = ["prune", "distill", "finetune", "quantize"]


@pytest.fixture(scope="module")
def described(server):
    project = server.project()
    yield {item["name"]: item for item in project.client.get("methods").json()["items"]}
    project.client.close()


def test_each_method_shows_alone_what_it_shows_in_the_list(project, described):
    assert set(described) >= set(METHODS)
    for name, item in described.items():
        assert project.client.get(f"methods/{name}").json() == item
        assert item["help"]
        assert all("description" in field for key, field in item["schema"]["properties"].items() if key != "method")
    problem(project.client.get("methods/shrink"), 404, "not_found")


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_the_schemas_defaults_is_accepted_as_it_is(project, described, name):
    schema = described[name]["schema"]
    step = {key: field["default"] for key, field in schema["properties"].items() if "default" in field}
    assert described[name]["defaults"] == step
    assert set(schema.get("required", [])) <= {"method"}
    assert schema["properties"]["method"]["const"] == name
    assert schema["additionalProperties"] is False
    step["method"] = name
    (taken,) = project.submit(recipe=[step]).json()["recipe"]
    assert taken.keys() == step.keys()
    # A null stands for a default that the service chooses.
    assert {key: taken[key] for key, value in step.items() if value is not None}.items() <= step.items()
    assert project.submit(recipe=[{"method": name}]).json()["recipe"] == [taken]


@pytest.mark.parametrize("name", METHODS)
def test_the_bounds_of_the_schema_are_those_of_the_service(project, described, name):
    ids = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
    outside = {"minimum": -1, "exclusiveMinimum": 0, "maximum": 1, "exclusiveMaximum": 0}
    tried = 0
    for key, field in described[name]["schema"]["properties"].items():
        for bound, step in outside.items():
            if bound in field:
                spec = {"method": name, key: field[bound] + step}
                body = problem(project.client.post("jobs", json={**ids, "recipe": [spec]}), 422, "validation_failed")
                assert pointers(body) == [f"/recipe/0/{key}"]
                tried += 1
    assert tried


def test_a_target_is_available_while_a_worker_serves_it(project):
    def target():
        (item,) = project.client.get("targets").json()["items"]
        return item

    known = target()
    assert (known["name"], known["runtime"], known["device"]) == ("onnxruntime-cpu", "onnxruntime", "cpu")
    assert known["formats"] == ["onnx"]
    assert known["precisions"] == ["float32", "float16", "int8", "int4"]
    assert not known["available"]
    sessions = project.server.parts.sessions
    for seen_at, available in ((datetime.now(UTC), True), (datetime.now(UTC) - timedelta(hours=1), False)):
        with sessions.begin() as session:
            workers.seen(
                session, "cpu@test", queue="cpu", targets=["onnxruntime-cpu"], isolation="bubblewrap", now=seen_at
            )
        assert target()["available"] is available
        assert target()["isolation"] == (["bubblewrap"] if available else [])
    with sessions.begin() as session:
        workers.gone(session, "cpu@test")
