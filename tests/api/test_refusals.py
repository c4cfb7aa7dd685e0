"""Every refusal has a code of its own, and leaves nothing behind."""

import base64
import hashlib
import json
import pickle
import socket
import time

import pytest

from app.domain.ids import Prefix, new_id
from tests.factories import FINETUNE, PRUNE, QUANTIZE, archive, layer, npz, pt2, safetensors
from tests.serving import MAX_BODY_BYTES, MAX_UPLOAD_BYTES, pointers, problem, slowly


@pytest.fixture
def unchanged(project):
    """Fail where a refusal left a file, a row or a message."""
    before = project.kept()
    yield
    # A connection that was cut is noticed a moment later.
    deadline = time.monotonic() + 5
    while project.kept() != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert project.kept() == before


UNKNOWN = {
    "text": b"this is no network at all",
    "image": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "pickle": pickle.dumps({"weight": [1.0] * 99}, protocol=2),
    "checkpoint": archive("net/data.pkl", "net/data/0"),
    "torchscript": archive("net/code/__torch__.py", "net/data.pkl"),
    "aotinductor": archive("net/models/model.json", "net/data/aotinductor/model/a.so"),
    "documents": archive("word/document.xml"),
    "almost safetensors": (9).to_bytes(8, "little") + b'{"a": 1} ' + bytes(9),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("noun", ["models", "datasets"])
@pytest.mark.parametrize("content", UNKNOWN.values(), ids=UNKNOWN)
def test_a_file_in_no_known_format(project, noun, content):
    body = problem(project.upload(noun, content), 415, "unknown_format")
    if content[0] == 0x80 or (content[:2] == b"PK" and b".pkl" in content):
        assert "torch.export" in body["hint"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("noun", "make"), [("models", npz), ("models", safetensors), ("datasets", pt2)])
def test_a_known_format_in_the_wrong_place(project, noun, make):
    problem(project.upload(noun, make()), 415, "unknown_format")


@pytest.mark.usefixtures("unchanged")
def test_a_format_that_is_not_the_one_asserted(project):
    assert (
        "npz"
        in problem(project.upload("datasets", npz(), params={"format": "safetensors"}), 415, "unknown_format")["detail"]
    )


CUTS = [1, 20, 50, 200, 500, 2000]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("noun", "make"), [("models", pt2), ("datasets", npz), ("datasets", safetensors)])
def test_a_file_that_was_cut(project, noun, make, cut):
    content = make()
    problem(project.upload(noun, content[:-cut] if cut < len(content) else b""), 400, "truncated_upload")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("announced", [f"Content-Length: {10**6}", "Transfer-Encoding: chunked"])
def test_a_connection_that_was_cut(project, announced):
    request = (
        f"POST /api/v1/models?name=m HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {project.key}\r\n"
        f"Content-Type: application/octet-stream\r\n{announced}\r\n\r\n"
    )
    content = pt2()
    if "chunked" in announced:
        content = f"{len(content):x}\r\n".encode() + content + b"\r\n"
    with socket.create_connection(("127.0.0.1", project.server.port)) as connection:
        connection.sendall(request.encode() + content)
        time.sleep(0.1)
    time.sleep(0.3)  # until the server has noticed


def digest(content):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


@pytest.mark.usefixtures("unchanged")
def test_a_digest_that_does_not_match(project):
    response = project.upload("models", pt2(), headers={"Repr-Digest": digest(b"else")})
    problem(response, 400, "digest_mismatch")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("header", ["sha-256=abc", "sha-256=:???:", "sha-256=:AAAA:", "sha-256=:QUFB"])
def test_a_digest_that_is_none(project, header):
    problem(project.upload("models", pt2(), headers={"Repr-Digest": header}), 400, "malformed_request")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("send", [bytes, slowly], ids=["announced", "chunked"])
def test_an_upload_over_the_limit(project, send):
    body = problem(project.upload("models", send(bytes(MAX_UPLOAD_BYTES + 1))), 413, "too_large")
    assert str(MAX_UPLOAD_BYTES) in body["detail"]


@pytest.mark.usefixtures("unchanged")
def test_an_upload_that_announces_too_much_is_refused_before_it_is_sent(project):
    request = (
        f"POST /api/v1/models?name=m HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {project.key}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {10**12}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", project.server.port), timeout=5) as connection:
        connection.sendall(request.encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("headers", [{"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}])
def test_an_upload_of_another_media_type(project, headers):
    problem(project.upload("models", pt2(), headers=headers), 415, "unsupported_media_type")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "query", [{"name": ""}, {"name": "a\nb"}, {"name": "a\0b"}, {"name": "n" * 201}, {"format": "h5"}]
)
def test_an_upload_with_an_impossible_query(project, query):
    body = problem(project.upload("models", pt2(), params=query), 422, "validation_failed")
    assert pointers(body) == [f"/query/{next(iter(query))}"]


def recipes():
    step = {"method": "prune"}
    yield "unknown method", [{"method": "shrink"}], "unknown_method", "/recipe/0/method"
    yield "no method", [{}], "validation_failed", "/recipe/0/method"
    yield "unknown field", [step | {"amuont": 0.5}], "validation_failed", "/recipe/0/amuont"
    yield "amount above all", [step | {"amount": 1.5}], "validation_failed", "/recipe/0/amount"
    yield "amount of nothing", [step | {"amount": 0}], "validation_failed", "/recipe/0/amount"
    yield "amount in words", [step | {"amount": "half"}], "validation_failed", "/recipe/0/amount"
    yield "second step", [step, QUANTIZE | {"samples": 0}], "validation_failed", "/recipe/1/samples"
    yield "no steps", [], "validation_failed", "/recipe"
    yield "too many steps", [step] * 9, "validation_failed", "/recipe"
    yield "no list", step, "validation_failed", "/recipe"
    yield "order", [QUANTIZE, PRUNE], "recipe_order", "/recipe/1"
    yield "two measures", [step | {"amount": 0.5, "macs_ratio": 2}], "validation_failed", "/recipe/0"
    yield "rounds without a schedule's use", [step, step | {"schedule": "cubic"}], "validation_failed", "/recipe/1"


@pytest.mark.parametrize(("recipe", "code", "pointer"), [case[1:] for case in recipes()], ids=[c[0] for c in recipes()])
def test_an_impossible_recipe(project, recipe, code, pointer):
    ids = {"model_id": project.add_model(), "dataset_id": project.add_dataset()}
    before = project.kept()
    body = problem(project.client.post("jobs", json={**ids, "recipe": recipe}), 422, code)
    assert pointers(body) == [pointer]
    assert project.kept() == before


FIELDS = {
    "unknown field": ({"recipes": []}, "validation_failed", "/recipes"),
    "unknown target": ({"target": "tpu"}, "unknown_target", "/target"),
    "impossible drop": ({"objective": {"max_drop": 2}}, "validation_failed", "/objective/max_drop"),
    "unknown metric": ({"objective": {"metric": "f1", "max_drop": 0}}, "validation_failed", "/objective/metric"),
    "no batch": ({"latency": {"batch_sizes": []}}, "validation_failed", "/latency/batch_sizes"),
    "priority": ({"priority": 10}, "validation_failed", "/priority"),
    "seed": ({"seed": -1}, "validation_failed", "/seed"),
    "control characters": ({"name": "a\0b"}, "validation_failed", "/name"),
    "endless": ({"time_limit_seconds": 10**9}, "validation_failed", "/time_limit_seconds"),
    "model id of another kind": ({"model_id": 7}, "validation_failed", "/model_id"),
}


@pytest.mark.parametrize("case", FIELDS.values(), ids=FIELDS)
def test_an_impossible_job(project, case):
    fields, code, pointer = case
    job = {"model_id": project.add_model(), "dataset_id": project.add_dataset(), "recipe": [PRUNE]}
    before = project.kept()
    assert pointers(problem(project.client.post("jobs", json=job | fields), 422, code)) == [pointer]
    assert project.kept() == before


X, Y = {"name": "x", "dtype": "float32", "shape": [1, 8, 8]}, {"name": "y", "dtype": "int64", "shape": []}
DATASETS = {
    "other field": ({"fields": [X | {"name": "image"}, Y]}, "dataset_mismatch", "image"),
    "one field more": ({"fields": [X, X | {"name": "mask"}, Y]}, "dataset_mismatch", "mask"),
    "other shape": ({"fields": [X | {"shape": [3, 32, 32]}, Y]}, "dataset_mismatch", "[3, 32, 32]"),
    "other rank": ({"fields": [X | {"shape": [64]}, Y]}, "dataset_mismatch", "[64]"),
    "other dtype": ({"fields": [X | {"dtype": "int64"}, Y]}, "dataset_mismatch", "int64"),
    "no labels": ({"fields": [X], "classes": None}, "dataset_mismatch", "label"),
    "labels out of range": ({"classes": 11}, "labels_out_of_range", "10"),
    "calibration alone": ({"splits": {"calibration": {"samples": 9}}}, "dataset_mismatch", "validation"),
}


@pytest.mark.parametrize("case", DATASETS.values(), ids=DATASETS)
def test_a_data_set_that_does_not_fit(project, case):
    facts, code, named = case
    ids = project.add_model(), project.add_dataset(**facts)
    before = project.kept()
    body = problem(project.submit(*ids), 422, code)
    assert pointers(body) == ["/dataset_id"]
    assert named in body["detail"]
    assert project.kept() == before


@pytest.mark.parametrize("step", [FINETUNE, QUANTIZE])
def test_a_step_that_needs_rows_which_are_not_there(project, step):
    dataset = project.add_dataset(splits={"validation": {"samples": 360}})
    body = problem(project.submit(dataset_id=dataset, recipe=[PRUNE, step]), 422, "dataset_mismatch")
    assert pointers(body) == ["/recipe/1"]


def test_a_layer_that_the_pruner_does_not_know_is_named(project):
    reason = "its channels reach fft_rfft, which the pruner does not know"
    model = project.add_model(layers=[layer(prunable=False, reason=reason)])
    body = problem(project.submit(model, recipe=[QUANTIZE | {"samples": 1}, PRUNE][::-1]), 422, "nothing_to_prune")
    assert pointers(body) == ["/recipe/0"]
    assert f"conv1 (conv2d): {reason}" in body["detail"]


def test_a_precision_that_the_target_lacks(project):
    step = {"method": "quantize", "scheme": "cast", "weights": "bf16"}
    body = problem(project.submit(recipe=[PRUNE, step]), 422, "unsupported_precision")
    assert pointers(body) == ["/recipe/1/weights"]


def test_a_scheme_that_finds_no_layer_of_its_kind(project):
    step = {"method": "quantize", "scheme": "weight_only", "weights": "int4"}
    body = problem(project.submit(project.add_model(layers=[layer()]), recipe=[step]), 422, "nothing_to_quantize")
    assert pointers(body) == ["/recipe/0"]


def test_a_model_that_is_quantized_already(project):
    body = problem(project.submit(project.add_model(quantized=True), recipe=[QUANTIZE]), 422, "recipe_order")
    assert pointers(body) == ["/recipe/0"]


def test_a_network_without_a_layer_to_quantize(project):
    model = project.add_model(layers=[layer(quantizable=False)])
    body = problem(project.submit(model, recipe=[PRUNE, QUANTIZE]), 422, "nothing_to_quantize")
    assert pointers(body) == ["/recipe/1"]
    assert "conv1" in body["detail"]


def test_a_network_that_cannot_be_trained(project):
    body = problem(project.submit(project.add_model(trainable=False), recipe=[FINETUNE]), 422, "not_trainable")
    assert pointers(body) == ["/recipe/0"]


def test_a_model_that_is_not_ready(project):
    model = project.upload("models", pt2()).json()["id"]
    assert pointers(problem(project.submit(model), 409, "not_ready")) == ["/model_id"]
    problem(project.client.get(f"models/{model}/layers"), 409, "not_ready")


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
    from datetime import UTC, datetime, timedelta

    from app.db.tables import KeyRow

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


def test_errors_of_the_framework(project):
    client, root = project.client, project.server.url
    problem(client.get(f"{root}/nowhere"), 404, "not_found")
    problem(client.get("models/a/b/c"), 404, "not_found")
    problem(client.post("models/", params={"name": "m"}, content=pt2()), 404, "not_found")
    response = client.put("models")
    problem(response, 405, "method_not_allowed")
    assert set(response.headers["allow"].replace(" ", "").split(",")) == {"GET", "POST"}
    problem(client.post(f"{root}/healthz"), 405, "method_not_allowed")
    for query in ({"limit": 0}, {"limit": 201}, {"limit": "many"}, {"cursor": "job_x"}, {"cursor": "\0"}):
        body = problem(client.get("models", params=query), 422, "validation_failed")
        assert pointers(body) == [f"/query/{next(iter(query))}"]
    for query in ({"state": "lost"}, {"label": "nocolon"}, {"label": "a:\0"}, {"model_id": "\0"}):
        body = problem(client.get("jobs", params=query), 422, "validation_failed")
        assert pointers(body) == [f"/query/{next(iter(query))}"]
    problem(client.get(f"jobs/{new_id(Prefix.JOB)}", params={"wait": 61}), 422, "validation_failed")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "content", [b"{", b"", b"\xff\xfe", b'{"name": "\xff"}', b"[" * 60_000, b'{"seed": ' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_not_json(project, content):
    response = project.client.post("jobs", content=content, headers={"Content-Type": "application/json"})
    problem(response, 400 if content else 422, "malformed_request" if content else "validation_failed")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"'])
def test_values_that_json_has_no_words_for(project, value):
    text = json.dumps({"model_id": "m", "dataset_id": "d", "recipe": [{"method": "prune", "amount": 0}]})
    response = project.client.post(
        "jobs", content=text.replace(": 0", f": {value}"), headers={"Content-Type": "application/json"}
    )
    assert response.status_code in {400, 422}
    problem(response, response.status_code, response.json()["code"])


@pytest.mark.usefixtures("unchanged")
def test_a_job_that_is_not_sent_as_json(project):
    for headers in ({"Content-Type": "text/plain"}, {}):
        response = project.client.post("jobs", content=b"{}", headers=headers)
        problem(response, 415, "unsupported_media_type")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("send", [bytes, slowly], ids=["announced", "chunked"])
def test_a_body_over_the_limit(project, send):
    for path in ("jobs", f"jobs/{new_id(Prefix.JOB)}:cancel", "nowhere"):
        response = project.client.post(path, content=send(bytes(MAX_BODY_BYTES + 1)))
        assert str(MAX_BODY_BYTES) in problem(response, 413, "too_large")["detail"]
