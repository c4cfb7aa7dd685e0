"""Jobs that are refused for their recipe, their fields, or what they are to work on; nothing is left behind."""

import pytest

from tests.factories import FINETUNE, PRUNE, QUANTIZE, layer, pt2
from tests.serving import pointers, problem


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
    "a colon in a label's key": ({"labels": {"a:b/c": "d", "e": "f:g"}}, "validation_failed", "/labels/a:b~1c"),
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


def test_a_colon_in_a_label_of_a_sweep(project):
    sweep = {
        "model_id": project.add_model(),
        "dataset_id": project.add_dataset(),
        "objective": {"max_drop": 0.1, "minimize": "size"},
        "budget": {"trials": 2, "seconds": 60},
        "labels": {"a:b": "c"},
    }
    before = project.kept()
    body = problem(project.client.post("sweeps", json=sweep), 422, "validation_failed")
    assert pointers(body) == ["/labels/a:b"]
    assert project.kept() == before


X, Y = {"name": "x", "dtype": "float32", "shape": [1, 8, 8]}, {"name": "y", "dtype": "int64", "shape": []}
DATASETS = {
    "other field": ({"fields": [X | {"name": "image"}, Y]}, "dataset_mismatch", "image"),
    "one field more": ({"fields": [X, X | {"name": "mask"}, Y]}, "dataset_mismatch", "mask"),
    "other shape": ({"fields": [X | {"shape": [3, 32, 32]}, Y]}, "dataset_mismatch", "[3, 32, 32]"),
    "other rank": ({"fields": [X | {"shape": [64]}, Y]}, "dataset_mismatch", "[64]"),
    "other dtype": ({"fields": [X | {"dtype": "int64"}, Y]}, "dataset_mismatch", "int64"),
    "labels that make no task": (
        {"classes": 7, "labels": {"dtype": "int64", "shape": [4], "classes": 7}},
        "dataset_mismatch",
        "no task",
    ),
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
