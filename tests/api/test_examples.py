"""Each example of the OpenAPI document is carried out against a service, and looks as its answer does."""

import copy
import re

import jsonschema
import pytest

from app.main import API
from tests.api.operations import METHODS, document
from tests.factories import npz, pt2
from tests.fuzz.world import world

JSON = "application/json"
ID = re.compile(r"(mdl|dat|job|art|prj|key|swp|whk|dlv|upl)_[0-9A-Z]{26}")
KINDS = {"mdl": "model_id", "dat": "dataset_id", "job": "job_id", "art": "artifact_id", "upl": "upload_id"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with world(tmp_path_factory.mktemp("world")) as found, found.server.client_with(found.key) as client:
        found.asking = client
        yield found


def operations():
    return {
        operation["operationId"]: (method, path, operation)
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    }


def success(operation):
    """Give the status of success and its JSON, null where it answers something else."""
    status = next(status for status in operation["responses"] if status.startswith("2"))
    return int(status), operation["responses"][status].get("content", {}).get(JSON)


def body_examples(operation):
    content = operation.get("requestBody", {}).get("content", {})
    return content[JSON].get("examples", {}) if JSON in content else None


def check(instance, schema):
    validator = jsonschema.Draft202012Validator({**schema, "components": document()["components"]})
    validator.validate(instance)


def shape(value):
    """Give the names of an object's fields, and of the first of its items."""
    return set(value), set((value.get("items") or [{}])[0])


def with_real_ids(value, ids):
    """Put objects that are there in the place of those that an example is about."""
    if isinstance(value, dict):
        return {name: with_real_ids(it, ids) for name, it in value.items()}
    if isinstance(value, list):
        return [with_real_ids(it, ids) for it in value]
    if isinstance(value, str) and (match := ID.fullmatch(value)):
        return ids[KINDS[match[1]]]
    return value


def test_every_body_in_json_has_an_example():
    without = [name for name, (_, _, it) in operations().items() if (json := success(it)[1]) and "example" not in json]
    assert without == []
    assert [name for name, (_, _, it) in operations().items() if body_examples(it) == {}] == []


@pytest.mark.parametrize("name", [name for name, (*_, it) in operations().items() if success(it)[1]])
def test_an_example_of_an_answer_fits_its_schema(name):
    _, content = success(operations()[name][2])
    check(content["example"], content["schema"])


@pytest.mark.parametrize("name", [name for name, (*_, it) in operations().items() if body_examples(it)])
def test_an_example_of_a_request_is_accepted(found, name):
    method, path, operation = operations()[name]
    status, answer = success(operation)
    for example in body_examples(operation).values():
        check(example["value"], operation["requestBody"]["content"][JSON]["schema"])
        ids = found.ids | {"upload_id": found.upload(npz() if name == "create_dataset" else pt2())}
        response = found.asking.request(method, path.removeprefix(API + "/"), json=with_real_ids(example["value"], ids))
        assert response.status_code == status, response.text
        check(response.json(), answer["schema"])
        assert shape(response.json()) == shape(answer["example"])
        assert set(operation["responses"][str(status)]["headers"]) - {"Idempotency-Replayed"} <= headers(response)


def test_examples_of_answers_look_as_answers_do(found):
    ids = copy.copy(found.ids)
    asking = found.asking
    ids["project_id"] = asking.post("projects", json={"name": "another"}).json()["id"]
    ids["key_id"] = asking.post("keys", json={"name": "laptop"}).json()["id"]
    ids["name"] = "finetune"
    for name, (method, path, operation) in operations().items():
        status, answer = success(operation)
        if method != "get" or answer is None:
            continue
        url = found.server.url + path.format_map(ids)
        response = asking.get(url, params={"job_id": ids["job_id"]} if name == "compare_jobs" else {})
        assert response.status_code == status, (name, response.text)
        check(response.json(), answer["schema"])
        assert shape(response.json()) == shape(answer["example"]), name
        wanted = set(operation["responses"][str(status)]["headers"])
        assert wanted <= headers(response), (name, wanted - headers(response))


def test_examples_of_actions_look_as_their_answers_do(found):
    job_id = found.project.queued(model_id=found.ids["model_id"], dataset_id=found.ids["dataset_id"])
    key_id = found.asking.post("keys", json={"name": "phone"}).json()["id"]
    ids = found.ids | {"job_id": job_id, "key_id": key_id}
    actions = "cancel_job retry_job rotate_key ping_webhook rotate_webhook enable_webhook redeliver cancel_sweep"
    for name in actions.split():
        _, path, operation = operations()[name]
        status, answer = success(operation)
        response = found.asking.post(found.server.url + path.format_map(ids))
        assert response.status_code == status, response.text
        check(response.json(), answer["schema"])
        assert shape(response.json()) == shape(answer["example"])


@pytest.mark.parametrize("noun", ["model", "dataset", "artifact"])
def test_contents_are_answered_as_described(found, noun):
    _, path, operation = operations()[f"get_{noun}_content"]
    url = found.server.url + path.format_map(found.ids)
    whole = found.asking.get(url)
    for sent, status in (({"Range": "bytes=1-3"}, 206), ({"If-None-Match": whole.headers["etag"]}, 304)):
        response = found.asking.get(url, headers=sent)
        assert response.status_code == status
        assert set(operation["responses"][str(status)]["headers"]) <= headers(response)
    assert whole.headers["content-type"] in operation["responses"]["200"]["content"]


def headers(response):
    return {name for name in document()["components"]["headers"] if name.lower() in response.headers}
