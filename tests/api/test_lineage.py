"""A job's result as a model of its own."""

import pytest

from app.db import models
from app.domain.ids import Prefix, new_id
from tests.factories import model_facts, onnx, pt2
from tests.serving import pointers, problem


@pytest.fixture
def job(project):
    job = project.queued()
    project.claim(job)
    return job


def test_an_artifact_becomes_a_model_whose_content_is_kept_once(project, job):
    content = pt2()
    artifact = project.add_artifact(job, "model.pt2", content)
    files, *_, messages = project.kept()
    response = project.client.post("models", json={"name": "smaller", "artifact_id": artifact})
    assert response.status_code == 201
    item = response.json()
    assert response.headers["location"] == f"/api/v1/models/{item['id']}"
    asked = project.client.get(f"jobs/{job}").json()
    assert item["origin"] == {"job_id": job, "model_id": asked["model_id"]}
    assert (item["name"], item["format"], item["state"]) == ("smaller", "pt2", "validating")
    assert project.kept()[0] == files
    assert project.kept()[-1] == messages + 1  # its inspection was asked for
    with project.server.parts.sessions.begin() as session:
        assert models.finish_inspection(session, item["id"], model_facts())
    assert project.client.get(f"models/{item['id']}").json()["state"] == "ready"
    assert project.queued(model_id=item["id"])
    project.finish(job)
    assert project.client.delete(f"jobs/{job}").status_code == 204
    assert project.client.get(f"models/{item['id']}/content").content == content
    assert project.client.get(f"models/{item['id']}").json()["origin"] == item["origin"]


def test_an_onnx_file_becomes_a_model_too(project, job):
    artifact = project.add_artifact(job, "model.onnx", onnx())
    response = project.client.post("models", json={"name": "smaller", "artifact_id": artifact})
    assert (response.status_code, response.json()["format"]) == (201, "onnx")


def test_what_is_no_model_stays_an_artifact(project, job):
    report = project.add_artifact(job, "report.json", b"{}", kind="report")
    renamed = project.add_artifact(job, "model.pt2", b"not really a network")
    packed = project.add_artifact(job, "model.onnx.zst", b"small")
    before = project.kept()
    for artifact in (report, packed):
        body = problem(
            project.client.post("models", json={"name": "m", "artifact_id": artifact}), 415, "unknown_format"
        )
        assert pointers(body) == ["/artifact_id"]
    problem(project.client.post("models", json={"name": "m", "artifact_id": renamed}), 415, "unknown_format")
    assert project.kept() == before


def test_an_artifact_of_another_project_answers_as_one_that_does_not_exist(project, foreign):
    job = foreign.queued()
    theirs = foreign.add_artifact(job, "model.pt2", pt2())
    for artifact in (theirs, new_id(Prefix.ARTIFACT), "art_\0", ""):
        body = problem(project.client.post("models", json={"name": "m", "artifact_id": artifact}), 404, "not_found")
        assert pointers(body) == ["/artifact_id"]


@pytest.mark.usefixtures("unchanged")
def test_bodies_that_say_too_little_or_too_much(project):
    ok = {"name": "m", "artifact_id": new_id(Prefix.ARTIFACT)}
    for body, pointer in (
        ({"name": "m"}, "/artifact_id"),
        ({**ok, "format": "pt2"}, "/format"),
        ({**ok, "name": ""}, "/name"),
    ):
        assert pointers(problem(project.client.post("models", json=body), 422, "validation_failed")) == [pointer]
    json = {"Content-Type": "application/json"}
    problem(project.client.post("models", content=b"{", headers=json), 400, "malformed_request")
    problem(project.client.post("models", content=b"[]", headers=json), 422, "validation_failed")
    response = project.client.post("models", json=ok, params={"name": "m"})
    assert pointers(problem(response, 422, "validation_failed")) == ["/query/name"]
    raw = project.client.post("models", content=pt2(), headers={"Content-Type": "application/octet-stream"})
    assert pointers(problem(raw, 422, "validation_failed")) == ["/query/name"]
    problem(project.client.post("models", content=bytes(100_000), headers=json), 413, "too_large")
