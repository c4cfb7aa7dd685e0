"""Jobs whose recipes name other models, and what that keeps of those."""

import pytest

from app.domain.errors import ChildCrashed
from app.domain.ids import Prefix, new_id
from app.domain.job import JobState
from tests.factories import PRUNE, model_facts, pt2
from tests.serving import pointers, problem


def step(**given):
    return {"method": "distill", **given}


def test_a_job_tells_its_models_and_losses_as_they_were_asked_for(project):
    teacher = project.add_model()
    recipe = [step(teacher=teacher, student={"width": 0.5}, losses={"kd": 1, "hint": 0.5})]
    response = project.submit(recipe=recipe)
    assert response.status_code == 202, response.text
    (told,) = response.json()["recipe"]
    assert (told["teacher"], told["student"]) == (teacher, {"width": 0.5, "depth": None})
    assert told["losses"] == {"kd": 1.0, "hint": 0.5}


@pytest.mark.usefixtures("unchanged")
class TestRefused:
    @pytest.fixture(autouse=True)
    def uploads(self, project):
        self.ids = project.add_model(), project.add_dataset()

    @pytest.mark.parametrize("role", ["teacher", "student"])
    def test_a_model_that_is_not_there(self, role, project):
        body = problem(project.submit(*self.ids, recipe=[step(**{role: new_id(Prefix.MODEL)})]), 404, "not_found")
        assert pointers(body) == [f"/recipe/0/{role}"]

    @pytest.mark.parametrize(("given", "pointer"), [
        ({"teacher": "resnet"}, "teacher"),
        ({"student": "resnet"}, "student"),
        ({"student": {"width": 2}}, "student/width"),
        ({"student": {"height": 2}}, "student/height"),
        ({"student": 7}, "student"),
        ({"losses": {"kd": -1}}, "losses/kd"),
        ({"temperature_end": 0}, "temperature_end"),
    ])  # fmt: skip
    def test_what_a_step_cannot_say_is_pointed_at(self, given, pointer, project):
        body = problem(project.submit(*self.ids, recipe=[step(**given)]), 422, "validation_failed")
        assert pointers(body) == [f"/recipe/0/{pointer}"]


def test_a_model_of_another_project_is_as_one_that_is_not_there(project, foreign):
    theirs, nobodys = foreign.add_model(), new_id(Prefix.MODEL)
    told = [
        problem(project.submit(recipe=[step(teacher=name)]), 404, "not_found")["detail"].replace(name, "")
        for name in (theirs, nobodys)
    ]
    assert told[0] == told[1]


def test_a_model_that_is_not_ready(project):
    waiting = project.upload("models", pt2()).json()["id"]
    body = problem(project.submit(recipe=[PRUNE, step(teacher=waiting)]), 409, "not_ready")
    assert pointers(body) == ["/recipe/1/teacher"]


def test_a_model_that_does_not_fit(project):
    signature = model_facts().signature.model_dump()
    signature["inputs"][0]["shape"] = ["batch", 3, 8, 8]
    other = project.add_model(signature=signature)
    for role in ("teacher", "student"):
        body = problem(project.submit(recipe=[step(**{role: other})]), 422, "model_mismatch")
        assert pointers(body) == [f"/recipe/0/{role}"]
        assert "[3, 8, 8]" in body["detail"] or "3, 8, 8]" in body["detail"]


def test_a_model_that_is_named_stays_until_the_job_ends(project):
    teacher, student = project.add_model(), project.add_model()
    job = project.queued(recipe=[step(teacher=teacher, student=student)])
    for name in (teacher, student):
        problem(project.client.delete(f"models/{name}"), 409, "in_use")
    project.claim(job)
    problem(project.client.delete(f"models/{teacher}"), 409, "in_use")
    project.finish(job)
    for name in (teacher, student):
        assert project.client.delete(f"models/{name}").status_code == 204
    assert project.client.get(f"jobs/{job}").json()["recipe"][0]["teacher"] == teacher


def test_a_job_goes_with_what_it_names_left_behind(project):
    teacher = project.add_model()
    job = project.queued(recipe=[step(teacher=teacher)])
    project.client.post(f"jobs/{job}:cancel")
    assert project.client.delete(f"jobs/{job}").status_code == 204
    assert project.client.get(f"models/{teacher}").status_code == 200


def test_a_job_whose_teacher_is_gone_cannot_be_tried_again(project):
    teacher = project.add_model()
    job = project.queued(recipe=[step(teacher=teacher)])
    project.claim(job)
    project.finish(job, JobState.FAILED, ChildCrashed("x").failure())
    assert project.client.delete(f"models/{teacher}").status_code == 204
    body = problem(project.client.post(f"jobs/{job}:retry"), 404, "not_found")
    assert pointers(body) == ["/recipe/0/teacher"]
