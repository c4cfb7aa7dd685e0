"""What nobody without the right key may see or do, nor learn whether it is there."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db.tables import KeyRow
from app.domain.ids import Prefix, new_id
from tests.api.operations import of_objects, operations
from tests.serving import pointers, problem

STREAM = {"Accept": "text/event-stream"}


KINDS = {
    "model_id": Prefix.MODEL,
    "dataset_id": Prefix.DATASET,
    "job_id": Prefix.JOB,
    "sweep_id": Prefix.SWEEP,
    "artifact_id": Prefix.ARTIFACT,
    "upload_id": Prefix.UPLOAD,
    "key_id": Prefix.KEY,
    "project_id": Prefix.PROJECT,
    "webhook_id": Prefix.WEBHOOK,
    "delivery_id": Prefix.DELIVERY,
}
"""What the parameters of paths name. One that is missing here makes the tests below fail."""


@pytest.mark.parametrize("operation", of_objects(), ids=str)
def test_an_unknown_id(project, operation):
    for ids in (
        {name: new_id(KINDS[name]) for name in operation.parameters},
        dict.fromkeys(operation.parameters, "nothing"),
        dict.fromkeys(operation.parameters, "%00"),
        dict.fromkeys(operation.parameters, "%E6%97%A5"),  # no header holds it
        {name: new_id(Prefix.REQUEST) for name in operation.parameters},
    ):
        problem(project.client.request(operation.method, operation.path.format(**ids)), 404, "not_found")


@pytest.fixture(scope="module")
def owned(server):
    """Give the ids of one object of each kind, all of one project."""
    owner = server.project()
    model, dataset = owner.add_model(), owner.add_dataset()
    job = owner.queued(model_id=model, dataset_id=dataset)
    key = owner.client.post("keys", json={"name": "mine"}).json()
    asked = {"model_id": model, "dataset_id": dataset, "objective": {"max_drop": 0.1}}
    sweep = owner.client.post("sweeps", json=asked).json()
    body = {"url": "https://receiver.invalid/", "events": ["job.succeeded"]}
    webhook = owner.client.post("webhooks", json=body).json()["id"]
    begun = owner.client.post("uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "4"})
    with owner.client_with(key["key"]) as client:
        yield {
            "model_id": model,
            "dataset_id": dataset,
            "job_id": job,
            "sweep_id": sweep["id"],
            "artifact_id": owner.add_artifact(job, "report.json", b"{}"),
            "upload_id": begun.headers["location"].rpartition("/")[2],
            "key_id": key["id"],
            "project_id": owner.id,
            "webhook_id": webhook,
            "delivery_id": owner.client.post(f"webhooks/{webhook}:ping").json()["id"],
        }
        # Nobody has cancelled, revoked or rotated anything.
        assert client.get(f"jobs/{job}").json()["state"] == "queued"
        assert client.get(f"sweeps/{sweep['id']}").json()["state"] == "running"
        assert len(client.get("uploads").json()["items"]) == 1
    owner.client.close()


@pytest.mark.parametrize("operation", of_objects(), ids=str)
def test_an_id_of_another_project_answers_as_one_that_does_not_exist(project, owned, operation):
    unknown = {name: new_id(KINDS[name]) for name in operation.parameters}
    told = []
    for ids in (owned, unknown):
        path = operation.path.format(**ids)
        response = project.client.request(operation.method, path)
        body = problem(response, 404, "not_found")
        told.append(str({**body, "request_id": ""}))
        for name in operation.parameters:
            told[-1] = told[-1].replace(ids[name], name)
        if path.endswith("events"):
            problem(project.client.get(path, headers=STREAM), 404, "not_found")
    assert told[0] == told[1]


def test_the_operator_alone_sees_other_projects(server, project, owned):
    with server.operator() as operator:
        assert operator.get(f"projects/{owned['project_id']}").json()["id"] == owned["project_id"]
        for path in ("keys/{key_id}", "jobs/{job_id}", "models/{model_id}"):
            problem(operator.get(path.format(**owned)), 404, "not_found")
    assert [item["id"] for item in project.client.get("projects").json()["items"]] == [project.id]
    problem(project.client.post("projects", json={"name": "mine"}), 403, "forbidden")
    problem(project.client.delete(f"projects/{project.id}"), 403, "forbidden")
    for id_ in (owned["project_id"], new_id(Prefix.PROJECT)):
        body = problem(project.client.post("keys", json={"name": "k", "project_id": id_}), 404, "not_found")
        assert pointers(body) == ["/project_id"]


def test_a_job_of_another_projects_uploads(project, owned):
    mine = project.add_model(), project.add_dataset()
    for ids, pointer in (((owned["model_id"], mine[1]), "/model_id"), ((mine[0], owned["dataset_id"]), "/dataset_id")):
        assert pointers(problem(project.submit(*ids), 404, "not_found")) == [pointer]


def test_lists_show_nothing_of_another_project(project, owned):
    for noun in ("models", "datasets", "jobs"):
        assert project.client.get(noun).json() == {"items": [], "next_cursor": None}
    assert project.client.get("jobs", params={"model_id": owned["model_id"]}).json()["items"] == []


def asked(operation, owned):
    return operation.path.format(**owned, name="prune"), dict.fromkeys(operation.needed, "n")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", operations(), ids=str)
def test_no_key_or_a_wrong_one(project, owned, operation):
    key_id, _, secret = project.key.partition(".")
    wrong = [
        f"Bearer {key_id}.{secret[:-1]}",
        f"Bearer {new_id(Prefix.KEY)}.{secret}",
        f"Bearer {key_id}",
        "Basic eA==",
    ]
    path, query = asked(operation, owned)
    for header in ("", *wrong):
        headers = {"Authorization": header}
        response = project.client.request(operation.method, path, params=query, headers=headers)
        body = problem(response, 401, "unauthenticated")
        assert secret not in str(body)
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_revoked_or_expired_key(project):
    for column, time_ in (("revoked_at", datetime.now(UTC)), ("expires_at", datetime.now(UTC) - timedelta(seconds=1))):
        key = project.make_key()
        with project.client_with(key) as client:
            assert client.get("models").status_code == 200
            with project.server.parts.sessions.begin() as session:
                setattr(session.get(KeyRow, key.partition(".")[0]), column, time_)
            project.server.parts.keyring.forget()  # or within half a second, as the database was changed from outside
            problem(client.get("models"), 401, "unauthenticated")


def test_a_key_without_the_scope(project):
    job = project.queued()
    ids = {**dict.fromkeys(KINDS, "nothing"), "job_id": job}
    before = project.kept()
    others = {scope: [it for it in ("read", "write", "admin") if it != scope] for scope in ("read", "write", "admin")}
    clients = {scope: project.client_with(project.make_key(lacking)) for scope, lacking in others.items()}
    for operation in operations():
        path, query = asked(operation, ids)
        response = clients[operation.scope].request(operation.method, path, params=query)
        assert repr(operation.scope) in problem(response, 403, "forbidden")["detail"]
    for client in clients.values():
        client.close()
    assert project.kept() == before
