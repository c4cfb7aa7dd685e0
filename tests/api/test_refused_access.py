"""What nobody without the right key may see or do, nor learn whether it is there."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db.tables import KeyRow
from app.domain.ids import Prefix, new_id
from tests.serving import pointers, problem

PATHS = [
    ("GET", "models/{mdl}"),
    ("DELETE", "models/{mdl}"),
    ("GET", "models/{mdl}/content"),
    ("GET", "models/{mdl}/layers"),
    ("GET", "datasets/{dat}"),
    ("DELETE", "datasets/{dat}"),
    ("GET", "datasets/{dat}/content"),
    ("GET", "jobs/{job}"),
    ("DELETE", "jobs/{job}"),
    ("POST", "jobs/{job}:cancel"),
    ("POST", "jobs/{job}:retry"),
    ("GET", "jobs/{job}/events"),
    ("GET", "jobs/{job}/logs"),
    ("GET", "jobs/{job}/report"),
    ("GET", "jobs/{job}/artifacts"),
    ("GET", "artifacts/{art}"),
    ("GET", "artifacts/{art}/content"),
]
STREAM = {"Accept": "text/event-stream"}


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_an_unknown_id(project, method, path):
    for ids in (
        {prefix.value: new_id(prefix) for prefix in Prefix},
        {prefix.value: "nothing" for prefix in Prefix},
        {prefix.value: "%00" for prefix in Prefix},
        {prefix.value: new_id(Prefix.KEY) for prefix in Prefix},
    ):
        problem(project.client.request(method, path.format(**ids)), 404, "not_found")


@pytest.fixture(scope="module")
def owned(server):
    """Give the ids of one object of each kind, all of one project."""
    owner = server.project()
    model, dataset = owner.add_model(), owner.add_dataset()
    job = owner.queued(model_id=model, dataset_id=dataset)
    ids = {"mdl": model, "dat": dataset, "job": job, "art": owner.add_artifact(job, "report.json", b"{}")}
    yield ids
    assert owner.client.get(f"jobs/{job}").json()["state"] == "queued"
    owner.client.close()


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_an_id_of_another_project(project, owned, method, path):
    problem(project.client.request(method, path.format(**owned)), 404, "not_found")
    if path.endswith("events"):
        problem(project.client.get(path.format(**owned), headers=STREAM), 404, "not_found")


def test_a_job_of_another_projects_uploads(project, owned):
    mine = project.add_model(), project.add_dataset()
    for ids, pointer in (((owned["mdl"], mine[1]), "/model_id"), ((mine[0], owned["dat"]), "/dataset_id")):
        assert pointers(problem(project.submit(*ids), 404, "not_found")) == [pointer]


def test_lists_show_nothing_of_another_project(project, owned):
    for noun in ("models", "datasets", "jobs"):
        assert project.client.get(noun).json() == {"items": [], "next_cursor": None}
    assert project.client.get("jobs", params={"model_id": owned["mdl"]}).json()["items"] == []


KEYED = [
    *PATHS,
    *(("GET", noun) for noun in ("models", "datasets", "jobs", "methods", "methods/prune", "targets")),
    *(("POST", noun) for noun in ("models?name=m", "datasets?name=d", "jobs")),
]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("method", "path"), KEYED)
def test_no_key_or_a_wrong_one(project, owned, method, path):
    key_id, _, secret = project.key.partition(".")
    wrong = [
        f"Bearer {key_id}.{secret[:-1]}",
        f"Bearer {new_id(Prefix.KEY)}.{secret}",
        f"Bearer {key_id}",
        "Basic eA==",
    ]
    for header in ("", *wrong):
        response = project.client.request(method, path.format(**owned), headers={"Authorization": header})
        problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_revoked_or_expired_key(project):
    for column, time_ in (("revoked_at", datetime.now(UTC)), ("expires_at", datetime.now(UTC) - timedelta(seconds=1))):
        key = project.make_key()
        with project.client_with(key) as client:
            assert client.get("models").status_code == 200
            with project.server.parts.sessions.begin() as session:
                setattr(session.get(KeyRow, key.partition(".")[0]), column, time_)
            problem(client.get("models"), 401, "unauthenticated")


def test_a_key_without_the_scope(project):
    job = project.queued()
    ids = {"mdl": "m", "dat": "d", "art": "a", "job": job}
    before = project.kept()
    with (
        project.client_with(project.make_key(["read"])) as reader,
        project.client_with(project.make_key(["write"])) as w,
    ):
        for method, path in KEYED:
            reads = method == "GET"
            body = problem((w if reads else reader).request(method, path.format(**ids)), 403, "forbidden")
            assert repr("read" if reads else "write") in body["detail"]
    assert project.kept() == before
