"""An analysis and what takes its table, as they are submitted."""

import pytest

from app.domain.errors import ChildCrashed
from app.domain.ids import Prefix, new_id
from app.domain.job import JobState
from tests.factories import FINETUNE, PRUNE, layer
from tests.serving import pointers, problem

ANALYSIS = {"method": "prune", "analyze": True}
TRAIN_ALONE = {"train": {"samples": 1437}}


@pytest.fixture
def uploads(project):
    return project.add_model(), project.add_dataset()


def analyzed(project, uploads, step=ANALYSIS, state=JobState.SUCCEEDED, table=True, **fields):
    """Let a job analyze the way a worker does; return its id."""
    job = project.queued(model_id=uploads[0], dataset_id=uploads[1], recipe=[step], **fields)
    project.claim(job)
    if table:
        project.add_artifact(job, "sensitivity.json", b"{}", kind="report")
    failure = ChildCrashed("x").failure() if state is JobState.FAILED else None
    project.finish(job, state, failure)
    return job


def take(project, uploads, job, before=(), step=PRUNE, **fields):
    return project.submit(*uploads, recipe=[*before, step | {"sensitivity": job}], **fields)


def refused(response, pointer="/recipe/0/sensitivity"):
    body = problem(response, 422, "no_sensitivity")
    assert pointers(body) == [pointer]
    assert body["errors"][0]["message"] == body["detail"]
    assert body["hint"]
    return body["detail"]


def test_a_table_of_the_same_model_and_data_is_taken(project, uploads):
    job = analyzed(project, uploads)
    response = take(project, uploads, job, seed=3)
    assert response.status_code == 202, response.text
    assert response.json()["recipe"][0]["sensitivity"] == job


def test_what_has_no_table_is_refused_with_a_pointer_to_the_field(project, foreign, uploads):
    missing = new_id(Prefix.JOB)
    assert missing in refused(take(project, uploads, missing, before=[FINETUNE]), "/recipe/1/sensitivity")
    refused(take(project, uploads, "nothing"))
    theirs = analyzed(foreign, (foreign.add_model(), foreign.add_dataset()))
    assert "There is no job" in refused(take(project, uploads, theirs))
    queued = project.queued(model_id=uploads[0], dataset_id=uploads[1], recipe=[ANALYSIS])
    assert "is queued" in refused(take(project, uploads, queued))
    assert "is failed" in refused(take(project, uploads, analyzed(project, uploads, state=JobState.FAILED)))
    assert "analyzed nothing" in refused(take(project, uploads, analyzed(project, uploads, PRUNE, table=False)))


def test_a_table_of_something_else_is_refused(project, uploads):
    job = analyzed(project, uploads)
    assert "another model_id" in refused(take(project, (project.add_model(), uploads[1]), job))
    assert "another dataset_id" in refused(take(project, (uploads[0], project.add_dataset()), job))
    assert "granularity" in refused(take(project, uploads, job, step={**PRUNE, "granularity": "weight"}))
    assert "criterion" in refused(take(project, uploads, job, step={**PRUNE, "criterion": "l1"}))


def test_a_table_behind_an_earlier_prune_is_refused(project, uploads):
    job = analyzed(project, uploads)
    assert "as it was uploaded" in refused(take(project, uploads, job, before=[PRUNE]), "/recipe/1/sensitivity")
    student = {"method": "distill", "student": {"width": 0.5}}
    assert "A student takes" in refused(take(project, uploads, job, before=[student]), "/recipe/1/sensitivity")
    assert take(project, uploads, job, before=[FINETUNE]).status_code == 202


def test_layers_that_were_left_out_are_to_be_left_out_again(project):
    uploads = project.add_model(layers=[layer(), layer(name="conv2", group="g1")]), project.add_dataset()
    job = analyzed(project, uploads, ANALYSIS | {"exclude": ["conv1"]})
    assert "left out the layers conv1" in refused(take(project, uploads, job))
    assert take(project, uploads, job, step=PRUNE | {"exclude": ["conv1"]}).status_code == 202


def test_where_the_seed_says_which_rows_judge_it_has_to_be_the_same(project):
    uploads = project.add_model(), project.add_dataset(splits=TRAIN_ALONE)
    job = analyzed(project, uploads, seed=1)
    assert "by the seed 1" in refused(take(project, uploads, job, seed=2))
    assert take(project, uploads, job, seed=1).status_code == 202


def test_an_analysis_is_the_only_step_of_its_job_and_has_no_objective(project, uploads):
    for recipe, pointer in (([ANALYSIS, FINETUNE], "/recipe/0"), ([FINETUNE, ANALYSIS], "/recipe/1")):
        body = problem(project.submit(*uploads, recipe=recipe), 422, "recipe_order")
        assert pointers(body) == [pointer]
    body = problem(project.submit(*uploads, recipe=[ANALYSIS], objective={"max_drop": 0.1}), 422, "validation_failed")
    assert pointers(body) == ["/objective"]


def test_an_analysis_needs_rows_that_judge_nothing(project, uploads):
    validation = project.add_dataset(splits={"validation": {"samples": 9}})
    body = problem(project.submit(uploads[0], validation, recipe=[ANALYSIS]), 422, "dataset_mismatch")
    assert pointers(body) == ["/recipe/0"]
