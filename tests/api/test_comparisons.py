"""Jobs beside each other."""

import pytest

from app.domain.ids import Prefix, new_id
from app.domain.job import JobState
from tests.serving import pointers, problem, statements


@pytest.fixture
def inputs(project):
    return {"model_id": project.add_model(), "dataset_id": project.add_dataset()}


def ended(project, inputs, summary, **fields):
    job = project.queued(**inputs, **fields)
    project.claim(job)
    project.finish(job, summary=summary)
    return job


def figures(accuracy, p50_ms, size_bytes):
    baseline = {"baseline_accuracy": 0.99, "baseline_p50_ms": 4.0}
    return {"accuracy": accuracy, **baseline, "p50_ms": p50_ms, "size_bytes": size_bytes, "size_ratio": 2.0}


def compare(project, *jobs):
    return project.client.get("comparisons", params={"job_id": jobs})


def test_the_front_is_what_nothing_beats(project, inputs):
    accurate = ended(project, inputs, figures(0.99, 2.0, 400))
    fast = ended(project, inputs, figures(0.97, 0.5, 300))
    worse = ended(project, inputs, figures(0.96, 0.5, 300))  # fast is as small and as fast, and more accurate
    twin = ended(project, inputs, figures(0.97, 0.5, 300))  # equal in all: neither beats the other
    small = ended(project, inputs, figures(0.90, 3.0, 100))
    answer = compare(project, worse, accurate, fast, twin, small, fast).json()
    assert [item["job_id"] for item in answer["items"]] == [worse, accurate, fast, twin, small]
    assert answer["pareto_front"] == [accurate, fast, twin, small]
    assert {item["job_id"]: item["dominated_by"] for item in answer["items"] if item["dominated"]} == {
        worse: [fast, twin]
    }
    assert answer["items"][0]["figures"] == figures(0.96, 0.5, 300)
    assert answer["figures"] == [
        {"name": "accuracy", "better": "higher"},
        {"name": "p50_ms", "better": "lower"},
        {"name": "size_bytes", "better": "lower"},
    ]


def test_only_jobs_measured_alike_are_set_against_each_other(project, inputs):
    better = ended(project, inputs, figures(0.99, 0.5, 100))
    others = [
        ended(project, inputs, figures(0.90, 1.0, 200), latency={"batch_sizes": [8]}),
        ended(project, inputs, figures(0.90, 1.0, 200), latency={"threads": [2, 1]}),
        ended(project, {**inputs, "dataset_id": project.add_dataset()}, figures(0.90, 1.0, 200)),
    ]
    others.append(ended(project, inputs, {"r2": 0.5, "baseline_r2": 0.6, "p50_ms": 1.0, "size_bytes": 200}))
    alike = ended(project, inputs, figures(0.90, 1.0, 200), latency={"threads": [1, 2]})
    answer = compare(project, better, alike, *others).json()
    assert answer["pareto_front"] == [better, *others]
    assert [figure["name"] for figure in answer["figures"]] == ["accuracy", "r2", "p50_ms", "size_bytes"]


def test_a_job_that_failed_with_its_report_is_compared(project, inputs):
    job = project.queued(**inputs)
    project.claim(job)
    project.finish(job, state=JobState.FAILED, summary=figures(0.5, 1.0, 100))
    assert compare(project, job).json()["items"][0]["state"] == "failed"


def test_a_job_without_a_report_is_named(project, foreign, inputs):
    fine, waiting = ended(project, inputs, figures(0.9, 1.0, 100)), project.queued(**inputs)
    analysis = ended(project, inputs, {"baseline_accuracy": 0.9, "groups": 3})
    for job in (waiting, analysis):
        body = problem(compare(project, fine, job), 409, "no_report")
        assert pointers(body) == ["/query/job_id/1"]
        assert job in body["detail"]
    theirs = foreign.queued()
    for job in (theirs, new_id(Prefix.JOB), "\0"):
        assert pointers(problem(compare(project, fine, job), 404, "not_found")) == ["/query/job_id/1"]
    problem(compare(project), 422, "validation_failed")
    problem(compare(project, *[fine] * 101), 422, "validation_failed")


def test_jobs_are_read_together(project, inputs):
    jobs = [ended(project, inputs, figures(0.9 + place / 100, 1.0, 100)) for place in range(5)]
    counts = []
    for few in (jobs[:2], jobs):
        with statements(project.server) as asked:
            assert len(compare(project, *few).json()["items"]) == len(few)
        counts.append(len(asked))
    assert counts[0] == counts[1]
