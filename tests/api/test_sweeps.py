"""Sweeps over HTTP, with jobs that end as a worker would end them."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db import datasets as datasets_table
from app.db import jobs as jobs_table
from app.db.tables import JobRow, ProjectRow, SweepRow, WebhookRow
from app.domain.errors import ObjectiveMissed
from app.domain.ids import Prefix, new_id
from app.domain.job import JobSpec, JobState
from app.services import jobs, sweeps
from tests.serving import Project, every, pointers, problem, serving, statements

SPACE = {"recipes": [[{"method": "prune", "amount": {"low": 0.1, "high": 0.9}}, {"method": "quantize"}]]}
OBJECTIVE = {"max_drop": 0.01}


def ask(project, **fields):
    ids = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
    return project.client.post("sweeps", json={**ids, "objective": OBJECTIVE, "space": SPACE, **fields})


def started(project, **fields):
    response = ask(project, **fields)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/api/v1/sweeps/{response.json()['id']}"
    return response.json()["id"]


def advance(project, now=None):
    parts = project.server.parts
    return sweeps.advance(parts.readers, parts.sessions, now or datetime.now(UTC))


def shown(project, sweep_id):
    return project.client.get(f"sweeps/{sweep_id}").json()


def end(project, job, *, p50_ms=1.0, size_bytes=1000, drop=0.0):
    """End a job as its report would have it."""
    project.claim(job)
    summary = {"p50_ms": p50_ms, "size_bytes": size_bytes, "metric_drop": drop, "macs_ratio": 2.0, "accuracy": 1 - drop,
               "baseline_accuracy": 1.0}  # fmt: skip
    if drop > OBJECTIVE["max_drop"]:
        failure = ObjectiveMissed("It lost too much.").failure()
        project.finish(job, JobState.FAILED, failure, summary)
    else:
        project.finish(job, summary=summary)


def amount_of(trial):
    return trial["recipe"][0]["amount"]


def run_to_end(project, sweep_id, outcome):
    """End each trial with what ``outcome`` gives for its recipe, until the sweep has ended."""
    for _ in range(100):
        sweep = shown(project, sweep_id)
        if sweep["state"] not in {"running", "cancelling"}:
            return sweep
        for trial in sweep["trials"]:
            if trial["state"] == "queued":
                end(project, trial["job_id"], **outcome(trial))
        advance(project)
    raise AssertionError(sweep)


def test_a_sweep_finds_the_fastest_that_keeps_what_must_be_kept(project):
    sweep_id = started(project, name="edge", budget={"trials": 16}, parallel=3, labels={"team": "vision"})
    first = shown(project, sweep_id)
    assert (first["state"], first["launched"], first["best_job_id"]) == ("running", 3, None)
    advance(project)
    assert shown(project, sweep_id)["launched"] == 3, "three are underway"
    # Up to 0.62 of the channels can go.
    sweep = run_to_end(
        project, sweep_id, lambda it: {"p50_ms": 1 - amount_of(it), "drop": 0.0 if amount_of(it) < 0.62 else 0.2}
    )
    assert (sweep["state"], sweep["launched"], len(sweep["trials"])) == ("succeeded", 16, 16)
    best = next(trial for trial in sweep["trials"] if trial["job_id"] == sweep["best_job_id"])
    good = [amount_of(trial) for trial in sweep["trials"] if trial["state"] == "succeeded"]
    assert amount_of(best) == max(good)
    assert 0.55 < amount_of(best) < 0.62
    assert sweep["pareto_front"] == [sweep["best_job_id"]]
    assert sweep["ended_at"] > sweep["created_at"]
    amounts = [amount_of(trial) for trial in sweep["trials"]]
    assert len(set(amounts)) == 16
    near = [abs(amount - 0.6) for amount in amounts]
    assert sum(near[8:]) < sum(near[:8]), "the second half stays near the best"
    found = every(project.client, "jobs", sweep_id=sweep_id, limit=10)
    assert len(found) == 16
    assert {job["sweep_id"] for job in found} == {sweep_id}
    assert all(job["labels"] == {"team": "vision"} and job["objective"]["max_drop"] == 0.01 for job in found)
    assert project.client.get("sweeps").json()["items"][0]["id"] == sweep_id


def test_draws_that_a_job_is_refused_for_are_told(project):
    """Each choice can be had, and both ends of all; what cannot is two choices together, drawn sooner or later."""
    shapes, multiples = {"choices": ["channel", "weight", "channel"]}, {"choices": ["auto", 4]}
    space = {"recipes": [[{"method": "prune", "amount": 0.5, "granularity": shapes, "round_to": multiples}]]}
    sweep_id = started(project, space=space, budget={"trials": 9}, parallel=9)
    sweep = shown(project, sweep_id)
    tried = {(trial["recipe"][0]["granularity"], trial["recipe"][0]["round_to"]) for trial in sweep["trials"]}
    assert tried == {("channel", "auto"), ("channel", 4), ("weight", "auto")}
    (refused,) = sweep["refused"]
    assert refused["count"] >= 1
    assert (refused["recipe"][0]["granularity"], refused["recipe"][0]["round_to"]) == ("weight", 4)
    asked = {key: sweep[key] for key in ("model_id", "dataset_id")} | {"recipe": refused["recipe"]}
    body = problem(project.client.post("jobs", json=asked), 422, refused["code"])
    assert body["detail"] == refused["detail"]
    assert shown(project, started(project))["refused"] == []
    # Whoever looks for one more while these run draws the same again.
    advance(project)
    advance(project)
    assert shown(project, sweep_id)["refused"] == [refused]
    ended = run_to_end(project, sweep_id, lambda _: {})
    assert ended["refused"][0]["count"] > refused["count"], "the draws that found nothing more count once"


def test_a_label_of_a_sweep_has_no_colon_in_its_key(project):
    body = problem(ask(project, labels={"a:b": "c"}), 422, "validation_failed")
    assert pointers(body) == ["/labels/a:b"]


def test_the_same_seed_tries_the_same_recipes(project):
    def tried(seed):
        sweep = run_to_end(project, started(project, budget={"trials": 4}, parallel=1, seed=seed), lambda _: {})
        return [amount_of(trial) for trial in sweep["trials"]]

    assert tried(5) == tried(5) != tried(6)


def test_a_sweep_ends_when_all_its_space_is_tried(project):
    space = {"recipes": [[{"method": "quantize", "observer": {"choices": ["minmax", "histogram", "mse"]}}]]}
    sweep = run_to_end(project, started(project, space=space, budget={"trials": 50}, parallel=4), lambda _: {})
    assert (sweep["state"], sweep["launched"]) == ("succeeded", 3)


@pytest.mark.parametrize("minimize", ["latency", "size", "macs"])
def test_auto_tries_what_suits_the_model(minimize, project):
    sweep_id = started(
        project, space="auto", objective={**OBJECTIVE, "minimize": minimize}, budget={"trials": 8}, parallel=8
    )
    recipes = [trial["recipe"] for trial in shown(project, sweep_id)["trials"]]
    assert len(recipes) == 8
    assert any(step["method"] == "prune" for recipe in recipes for step in recipe)
    assert any(recipe[0]["method"] == "quantize" for recipe in recipes) == (minimize != "macs")


def test_where_no_trial_holds_the_sweep_fails_and_says_how_they_ended(project):
    sweep = run_to_end(project, started(project, budget={"trials": 3}), lambda _: {"drop": 0.3})
    assert (sweep["state"], sweep["best_job_id"], sweep["pareto_front"]) == ("failed", None, [])
    assert sweep["failure"]["code"] == "no_trial_succeeded"
    assert "3 objective_missed" in sweep["failure"]["detail"]


def test_cancelling_keeps_the_best_so_far(project):
    sweep_id = started(project, budget={"trials": 10}, parallel=2)
    done, running = (trial["job_id"] for trial in shown(project, sweep_id)["trials"])
    end(project, done)
    project.claim(running)
    problem(project.client.delete(f"sweeps/{sweep_id}"), 409, "conflict")
    response = project.client.post(f"sweeps/{sweep_id}:cancel")
    assert (response.status_code, response.json()["state"]) == (202, "cancelling")
    advance(project)
    assert shown(project, sweep_id)["launched"] == 2
    assert project.client.get(f"jobs/{running}").json()["state"] == "cancelling"
    project.finish(running, JobState.CANCELLED)
    advance(project)
    sweep = shown(project, sweep_id)
    assert (sweep["state"], sweep["best_job_id"]) == ("cancelled", done)
    problem(project.client.post(f"sweeps/{sweep_id}:cancel"), 409, "sweep_ended")
    assert project.client.delete(f"sweeps/{sweep_id}").status_code == 204
    problem(project.client.get(f"sweeps/{sweep_id}"), 404, "not_found")
    assert project.client.get(f"jobs/{done}").json()["sweep_id"] is None
    assert [it["action"] for it in project.client.get("audit").json()["items"][:2]] == [
        "sweep.deleted", "sweep.cancelled"]  # fmt: skip


def test_the_budget_of_time_begins_with_the_first_job(project):
    sweep_id = started(project, budget={"trials": 10, "seconds": 60}, parallel=2)
    first, second = (trial["job_id"] for trial in shown(project, sweep_id)["trials"])
    later = datetime.now(UTC) + timedelta(seconds=61)
    advance(project, later)
    assert shown(project, sweep_id)["state"] == "running", "none has begun"
    end(project, first)
    advance(project, later)
    assert project.client.get(f"jobs/{second}").json()["state"] == "cancelled"
    sweep = shown(project, sweep_id)
    assert (sweep["state"], sweep["best_job_id"], sweep["launched"]) == ("succeeded", first, 2)


def test_what_a_sweep_names_is_looked_up_once_however_many_recipes_its_space_has(project):
    ids = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
    amounts = {"choices": [number / 100 for number in range(10, 74)]}
    recipes = [[{"method": "prune", "amount": amounts}, {"method": "finetune", "epochs": {"choices": [1, 2]}}]] * 4
    asked = {**ids, "objective": OBJECTIVE, "space": {"recipes": recipes}, "budget": {"trials": 1}}
    with statements(project.server) as found:
        assert project.client.post("sweeps", json=asked).status_code == 202
    assert len(found) < 20
    missing = [{"method": "distill", "teacher": {"choices": ["baseline", new_id(Prefix.MODEL)]}, "epochs": 1}]
    response = project.client.post("sweeps", json={**asked, "space": {"recipes": [missing]}})
    assert pointers(problem(response, 404, "not_found")) == ["/space/recipes/0/0/teacher"]


def test_the_best_that_is_deleted_leaves_the_next_best_behind(project):
    sweep_id = started(project, budget={"trials": 3}, parallel=3)
    times = iter([0.3, 0.1, 0.2])
    trials = run_to_end(project, sweep_id, lambda _: {"p50_ms": next(times)})["trials"]
    slow, fast, middle = (trial["job_id"] for trial in trials)
    for best, left in ((fast, middle), (middle, slow), (slow, None)):
        assert shown(project, sweep_id)["best_job_id"] == best
        assert project.client.delete(f"jobs/{best}").status_code == 204
        assert shown(project, sweep_id)["best_job_id"] == left
        (listed,) = project.client.get("sweeps").json()["items"]
        assert listed["best_job_id"] == left


def test_two_housekeepers_start_no_more_than_may_be_underway(project):
    sweep_id = started(project, budget={"trials": 20}, parallel=4)
    for trial in shown(project, sweep_id)["trials"]:
        end(project, trial["job_id"])
    for _ in range(2):
        # What it gives is of all sweeps, and the server's own housekeeper may have been first.
        advance(project)
        sweep = shown(project, sweep_id)
        assert (sweep["launched"], [trial["state"] for trial in sweep["trials"]].count("queued")) == (8, 4)


def test_a_sweep_whose_data_set_is_gone_ends(project):
    sweep_id = started(project, budget={"trials": 10}, parallel=1)
    sweep = shown(project, sweep_id)
    with project.server.parts.sessions.begin() as session:
        datasets_table.get(session, project.id, sweep["dataset_id"]).state = "rejected"
    end(project, sweep["trials"][0]["job_id"])
    advance(project)
    sweep = shown(project, sweep_id)
    assert (sweep["state"], sweep["launched"]) == ("succeeded", 1)


def test_a_deleted_trial_counts(project):
    sweep_id = started(project, budget={"trials": 2}, parallel=1)
    (trial,) = shown(project, sweep_id)["trials"]
    end(project, trial["job_id"])
    assert project.client.delete(f"jobs/{trial['job_id']}").status_code == 204
    sweep = run_to_end(project, sweep_id, lambda _: {})
    assert (sweep["launched"], len(sweep["trials"])) == (2, 1)


@pytest.mark.parametrize(("fields", "status", "code", "pointer"), [
    ({"objective": None}, 422, "validation_failed", "/objective"),
    ({"objective": {"max_drop": 0.1, "minimize": "joy"}}, 422, "validation_failed", "/objective/minimize"),
    ({"budget": {"trials": 0}}, 422, "validation_failed", "/budget/trials"),
    ({"space": "wide"}, 422, "validation_failed", "/space"),
    ({"space": {"recipes": [[{"method": "prune", "amount": {"low": 0.5, "high": 2.0}}]]}}, 422, "validation_failed",
     "/space/recipes/0/0/amount"),
    ({"space": {"recipes": [[{"method": "quantize"}], [{"method": "quantize"}, {"method": "prune"}]]}}, 422,
     "recipe_order", "/space/recipes/1/1"),
    ({"space": {"recipes": [[{"method": "melt"}]]}}, 422, "unknown_method", "/space/recipes/0/0/method"),
    ({"space": {"recipes": [[{"method": "prune", "amount": {"low": 0, "high": 10**400}}]]}}, 422, "validation_failed",
     "/space/recipes/0/0/amount/high"),
    ({"space": {"recipes": [[{"method": "quantize", "scheme": {"choices": ["static", "statik", "static"]}}]]}}, 422,
     "validation_failed", "/space/recipes/0/0/scheme"),
    ({"space": {"recipes": [[{"method": "prune", "exclude": {"choices": [[], ["nowhere"], []]}}]]}}, 422,
     "validation_failed", "/space/recipes/0/0/exclude"),
    ({"model_id": new_id(Prefix.MODEL)}, 404, "not_found", "/model_id"),
    ({"model_id": new_id(Prefix.MODEL), "space": "auto"}, 404, "not_found", "/model_id"),
    ({"dataset_id": new_id(Prefix.DATASET)}, 404, "not_found", "/dataset_id"),
])  # fmt: skip
def test_a_sweep_in_which_nothing_could_succeed_is_refused(fields, status, code, pointer, project):
    body = problem(ask(project, **fields), status, code)
    assert all(found.startswith(pointer) for found in pointers(body)), body
    assert "/recipe/" not in body["detail"]
    assert project.kept()[3] == 0
    assert project.client.get("sweeps").json()["items"] == []


def test_a_sweep_that_finds_no_room_goes_on_later(tmp_path):
    with serving(tmp_path, max_active_jobs=1) as server:
        project = server.project()
        sweep_id = started(project, budget={"trials": 3}, parallel=1)
        (trial,) = shown(project, sweep_id)["trials"]
        project.claim(trial["job_id"])
        with server.parts.sessions.begin() as session:
            # At once, so that no round of the housekeeper's finds the place free.
            now = datetime.now(UTC)
            assert jobs_table.finish(session, trial["job_id"], 1, JobState.SUCCEEDED, None, {"p50_ms": 1.0}, now)
            spec = JobSpec.model_validate(session.get(JobRow, trial["job_id"]).spec)
            other = jobs.submit(session, project.id, spec).row.id
        for _ in range(2):
            sweeps.advance(server.parts.readers, server.parts.sessions, now, limit=1)
        sweep = shown(project, sweep_id)
        assert (sweep["state"], sweep["launched"], sweep["best_job_id"]) == ("running", 1, trial["job_id"])
        with server.parts.sessions.begin() as session:
            jobs_table.cancel(session, other, now)
        sweeps.advance(server.parts.readers, server.parts.sessions, now, limit=1)
        assert shown(project, sweep_id)["launched"] == 2
        project.client.close()


def test_closing_a_project_ends_what_it_computes_and_sends(server):
    name = new_id(Prefix.PROJECT)
    with server.operator() as operator:
        made = operator.post("projects", json={"name": name}).json()
        with server.parts.readers() as session:
            project = Project(server, session.get(ProjectRow, made["id"]))
        sweep_id, job_id = started(project, budget={"trials": 9}, parallel=1), project.queued()
        webhook = project.client.post("webhooks", json={"url": "https://receiver.invalid", "events": ["job.failed"]})
        (trial,) = shown(project, sweep_id)["trials"]
        project.claim(trial["job_id"])
        assert operator.delete(f"projects/{made['id']}").status_code == 204
    with server.parts.readers() as session:
        assert session.get(JobRow, job_id).state == "cancelled"
        assert session.get(JobRow, trial["job_id"]).state == "cancelling"
        assert session.get(WebhookRow, webhook.json()["id"]).disabled_at is not None
    project.finish(trial["job_id"], JobState.CANCELLED)
    advance(project)
    with server.parts.readers() as session:
        sweep = session.get(SweepRow, sweep_id)
        assert (sweep.state, sweep.launched) == ("cancelled", 1)
    project.client.close()


def test_auto_is_refused_where_it_finds_nothing(project):
    model = project.add_model(trainable=False)
    response = ask(project, model_id=model, space="auto", objective={"max_drop": 0.1, "minimize": "macs"})
    assert "macs" in problem(response, 422, "validation_failed")["detail"]


def test_a_sweep_waits_where_the_project_has_no_room_for_more_jobs(tmp_path):
    with serving(tmp_path, max_active_jobs=2) as server:
        project = server.project()
        other = project.queued()
        sweep_id = started(project, budget={"trials": 10}, parallel=2)
        assert shown(project, sweep_id)["launched"] == 1
        problem(ask(project), 429, "too_many_jobs")
        with server.parts.sessions.begin() as session:
            jobs_table.cancel(session, other, datetime.now(UTC))
        sweeps.advance(server.parts.readers, server.parts.sessions, datetime.now(UTC), limit=2)
        assert shown(project, sweep_id)["launched"] == 2
        project.client.close()
