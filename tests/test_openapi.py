import json
from collections import Counter
from pathlib import Path

import pytest

from app.api import catalogue
from app.api.errors import STATUS
from app.api.openapi import examples
from app.api.refusals import OF_OPERATIONS
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[1]
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    app = create_app(Settings(data=tmp_path_factory.mktemp("openapi")))
    yield app.openapi()
    app.state.parts.engine.dispose()


def operations(document):
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    }


def test_the_committed_document_is_fresh(document):
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert committed == json.loads(json.dumps(document)), "docs/openapi.json is stale: run `make openapi`"


def test_every_operation_has_an_id_of_its_own_and_a_description(document):
    found = operations(document)
    ids = Counter(operation["operationId"] for operation in found.values())
    assert [name for name, count in ids.items() if count > 1] == []
    # An id that is made from the path changes with it, and so do the clients made from the document.
    assert [name for name in ids if "api_v1" in name or "__" in name] == []
    assert [name for name, operation in found.items() if not operation.get("description")] == []


def test_every_body_of_a_model_and_of_a_data_set_is_described(document):
    required = {"models": [["name", "artifact_id"], ["name", "upload_id"]], "datasets": [["name", "upload_id"]]}
    for noun, wanted in required.items():
        content = document["paths"][f"/api/v1/{noun}"]["post"]["requestBody"]["content"]
        assert content["application/octet-stream"]["schema"] == {"type": "string", "format": "binary"}
        schema = content["application/json"]["schema"]
        names = [body["$ref"].rpartition("/")[2] for body in schema.get("anyOf", [schema])]
        assert [document["components"]["schemas"][name]["required"] for name in names] == wanted


def test_every_operation_under_the_version_needs_a_key_and_tells_of_problems(document):
    for name, operation in operations(document).items():
        versioned = " /api/v1/" in name
        assert bool(operation.get("security")) is versioned, name
        assert not any("X" in status for status in operation["responses"]), name
        assert ({"401", "403", "422", "429"} <= set(operation["responses"])) is versioned, name


def test_every_refusal_is_a_problem_with_its_codes(document):
    known = {error.code: STATUS[error.kind] for error in catalogue.error_classes()}
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            assert "X-Request-ID" in response["headers"], name
            if int(status) >= 400:
                (content,) = response["content"].items()
                assert content[0] == "application/problem+json"
                assert {known[code] for code in content[1]["examples"]} == {int(status)}, name
    told = set(document["components"]["examples"])
    assert told <= set(known)


def test_no_operation_is_listed_that_does_not_exist(document):
    assert set(OF_OPERATIONS) == {operation["operationId"] for operation in operations(document).values()}
    assert set(examples()) <= set(OF_OPERATIONS)


def test_what_is_asked_by_options_is_described_and_refuses_nothing(document):
    responses = document["paths"]["/api/v1/uploads"]["options"]["responses"]
    assert responses.keys() == {"204"}
    assert {"Tus-Version", "Tus-Extension", "Tus-Max-Size", "X-Request-ID"} <= responses["204"]["headers"].keys()
