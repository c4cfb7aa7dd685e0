"""What a job learns: told by the data set and the model, or asked for, and what then makes no sense."""

import pytest
from pydantic import ValidationError

from app.domain.compatibility import check
from app.domain.compatibility.task import resolve_task
from app.domain.dataset import DatasetFacts, LabelFacts
from app.domain.errors import WinnowError
from app.domain.job import JobSpec
from app.domain.learning_task import METRICS, LearningTask
from app.domain.model import ModelFacts, Signature

X = {"name": "x", "dtype": "float32", "shape": ["batch", 8]}
WORDS = {"name": "input_ids", "dtype": "int64", "shape": ["batch", 6]}
MASK = WORDS | {"name": "attention_mask"}
TASKS = list(LearningTask)


def signature(*output, inputs=(X,), dtype="float32"):
    outputs = [{"name": "out", "dtype": dtype, "shape": ["batch", *output]}]
    return Signature.model_validate({"inputs": inputs, "outputs": outputs})


def labels(dtype="int64", *shape, classes=None, **given):
    given = {"classes": classes or 3 if dtype == "int64" else None} | given
    return LabelFacts(dtype=dtype, shape=shape, **given)


INDEX, HOT, FLAGS = labels(), labels("int64", 4, classes=2, binary=True), labels("bool", 4, binary=True)
NUMBER, ZERO_ONE, TOKENS = labels("float32"), labels("float64", 4, binary=True), labels("int64", 6, ignored=True)
PIXELS = labels("int64", 4, 5, ignored=True)


@pytest.mark.parametrize(
    ("found", "shape", "task"),
    [
        (None, (4,), "embedding"),
        (None, (6, 4), "embedding"),
        (INDEX, (4,), "classification"),
        (labels(binary=True, classes=2), (4,), "classification"),
        (HOT, (4,), "multilabel"),
        (FLAGS, (4,), "multilabel"),
        (NUMBER, (), "regression"),
        (NUMBER, (1,), "regression"),
        (labels("float64", 3), (3,), "regression"),
        (labels("float16", 2, 5), (2, 5), "regression"),
        (ZERO_ONE, (4,), "regression"),
        (TOKENS, (6, 4), "token_classification"),
        (labels("int64", 6, classes=2, binary=True), (6, 4), "token_classification"),
        (TOKENS, ("length", 4), "token_classification"),
        (PIXELS, (8, 4, 5), "segmentation"),
        (PIXELS, (8, "height", "width"), "segmentation"),
    ],
)
def test_the_task_is_told_by_labels_and_outputs(found, shape, task):
    assert resolve_task(None, found, signature(*shape)) == task


TEXT = signature(6, 9, inputs=(WORDS, MASK))
ASKED = [
    ("multilabel", ZERO_ONE, signature(4)),
    ("embedding", INDEX, signature(4)),
    ("regression", INDEX, signature(1)),
    ("language_modelling", labels("int64", 6, classes=9), TEXT),
    ("language_modelling", None, TEXT),
    ("language_modelling", None, signature(6, 9, inputs=(WORDS | {"name": "words"}, MASK))),
    ("language_modelling", None, signature(6, 9, inputs=(WORDS, WORDS | {"name": "token_type_ids"}))),
]


@pytest.mark.parametrize(("task", "found", "shapes"), ASKED)
def test_a_task_that_is_asked_for_is_taken_where_it_fits(task, found, shapes):
    assert resolve_task(LearningTask(task), found, shapes) == task


REFUSED = [
    (None, labels("int64", 4, classes=7), signature(4), "dataset_mismatch", "/dataset_id", "no task"),
    (None, HOT, signature(5), "dataset_mismatch", "/dataset_id", "[4]"),
    (None, labels("float32", 3), signature(4), "dataset_mismatch", "/dataset_id", "[3]"),
    (None, labels(classes=5), signature(4), "labels_out_of_range", "/dataset_id", "4 classes"),
    (None, labels(), signature(6, 4), "unsupported_network", "/model_id", "[batch, classes]"),
    (None, labels("int64", 6, classes=5), signature(6, 4), "labels_out_of_range", "/dataset_id", "4 classes"),
    (None, labels("int64", 5), signature(6, 4), "dataset_mismatch", "/dataset_id", "[5]"),
    (None, None, signature(), "unsupported_network", "/model_id", "no vector"),
    (None, None, signature(4, dtype="int64"), "unsupported_network", "/model_id", "int64"),
    (None, labels("float32", 4), signature(4, dtype="int64"), "unsupported_network", "/model_id", "int64"),
    ("multilabel", labels("float32", 4), signature(4), "task_mismatch", "/task", "0 or 1"),
    ("multilabel", None, signature(4), "dataset_mismatch", "/dataset_id", "'y'"),
    ("classification", None, signature(4), "dataset_mismatch", "/dataset_id", "'y'"),
    ("classification", NUMBER, signature(4), "dataset_mismatch", "/dataset_id", "float32"),
    ("token_classification", NUMBER, signature(6, 4), "dataset_mismatch", "/dataset_id", "float32"),
    ("regression", TOKENS, signature(6), "dataset_mismatch", "/dataset_id", "-100"),
    ("language_modelling", None, signature(6, 9), "task_mismatch", "/task", "integer input"),
    ("language_modelling", None, signature(5, 9, inputs=(WORDS,)), "unsupported_network", "/model_id", "[6]"),
    ("language_modelling", None, signature(9, inputs=(WORDS,)), "unsupported_network", "/model_id", "positions"),
    (
        "token_classification",
        TOKENS,
        signature(6, 4, inputs=(WORDS, MASK | {"shape": ["batch", 1, 6]})),
        "unsupported_network",
        "/model_id",
        "attention_mask",
    ),
]


@pytest.mark.parametrize(("task", "found", "shapes", "code", "pointer", "said"), REFUSED)
def test_what_makes_no_task_is_refused_by_name(task, found, shapes, code, pointer, said):
    with pytest.raises(WinnowError) as caught:
        resolve_task(task and LearningTask(task), found, shapes)
    assert (caught.value.code, caught.value.errors[0].pointer) == (code, pointer)
    assert said in caught.value.detail


FACTS = {
    "classification": (INDEX, signature(8)),
    "multilabel": (HOT, signature(4)),
    "regression": (NUMBER, signature(1)),
    "embedding": (None, signature(4)),
    "token_classification": (TOKENS, TEXT),
    "language_modelling": (None, TEXT),
    "segmentation": (PIXELS, signature(8, 4, 5)),
}


def submit(task, recipe=None, **given):
    found, shapes = FACTS[task]
    layers = [
        {"name": "fc", "op": "linear", "weight_shape": [8, 8], "parameters": 64, "macs": 64, "group": "g1"}
        | {"prunable": True, "quantizable": True}
    ]
    known = {"format": "pt2", "parameters": 64, "macs": 64, "trainable": True, "layers": layers}
    fields = [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape[1:]} for spec in shapes.inputs]
    if found is not None:
        fields.append({"name": "y", "dtype": found.dtype, "shape": found.shape})
    rows = {"format": "npz", "fields": fields, "labels": found, "classes": found and found.classes}
    splits = {name: {"samples": 90} for name in ("train", "validation")}
    job = JobSpec(model_id="m", dataset_id="d", task=task, recipe=recipe or [{"method": "prune"}], **given)
    check(
        job,
        ModelFacts.model_validate(known | {"signature": shapes}),
        DatasetFacts.model_validate(rows | {"splits": splits}),
    )


def refusal(task, recipe=None, **given):
    with pytest.raises(WinnowError) as caught:
        submit(task, recipe, **given)
    assert caught.value.code == "task_mismatch"
    return caught.value.errors[0].pointer, caught.value.detail


@pytest.mark.parametrize("task", TASKS)
def test_an_objective_is_about_a_metric_of_the_task(task):
    for metric in {metric for known in METRICS.values() for metric in known}:
        objective = {"metric": metric, "max_drop": 0.01}
        if metric in METRICS[task]:
            submit(task, objective=objective)
        else:
            pointer, detail = refusal(task, objective=objective)
            assert (pointer, ", ".join(METRICS[task]) in detail) == ("/objective/metric", True)
    submit(task, objective={"max_drop": 0.01})


def test_the_first_five_of_five_say_nothing(monkeypatch):
    monkeypatch.setitem(FACTS, "classification", (INDEX, signature(5)))
    pointer, detail = refusal("classification", objective={"metric": "top5_accuracy", "max_drop": 0})
    assert (pointer, "5 classes" in detail) == ("/objective/metric", True)


def test_a_metric_that_is_none_is_refused_by_the_schema():
    with pytest.raises(ValidationError):
        submit("regression", objective={"metric": "mse", "max_drop": 0.1})


RECOVERED = {"method": "prune", "rounds": 2, "recovery_epochs": 1}
IMITATING = {
    "": {"method": "distill"},
    "/recovery_method": RECOVERED | {"recovery_method": "distill"},
    "/teacher": {"method": "quantize", "scheme": "qat", "teacher": "baseline"},
}
LABELLED = {
    "": {"method": "finetune"},
    "/recovery_method": RECOVERED,
    "/criterion": {"method": "prune", "criterion": "taylor"},
    "/scheme": {"method": "quantize", "scheme": "qat"},
}


@pytest.mark.parametrize("field", IMITATING)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_something_of_a_teacher_to_imitate(task, field):
    submit(task, [{"method": "prune"}, IMITATING[field]])


@pytest.mark.parametrize("loss", ["kd", "dkd"])
@pytest.mark.parametrize("task", TASKS)
def test_only_distributions_over_classes_are_imitated_by_their_divergence(task, loss):
    recipe = [{"method": "distill", "loss": loss}]
    if task in {"classification", "token_classification", "language_modelling", "segmentation"}:
        submit(task, recipe)
    else:
        pointer, detail = refusal(task, recipe)
        assert (pointer, task in detail) == ("/recipe/0/loss", True)


ALONE = {
    "classification": (labels(classes=1), signature(1)),
    "token_classification": (labels("int64", 6, classes=1, ignored=True), signature(6, 1, inputs=(WORDS, MASK))),
    "language_modelling": (None, signature(6, 1, inputs=(WORDS, MASK))),
    "segmentation": (labels("int64", 4, 5, classes=1, ignored=True), signature(1, 4, 5)),
}


@pytest.mark.parametrize("task", ALONE)
def test_one_class_alone_is_not_imitated_by_how_likely_it_is(task, monkeypatch):
    monkeypatch.setitem(FACTS, task, ALONE[task])
    for given, field in (
        (IMITATING[""], "/loss"),
        (IMITATING[""] | {"loss": "dkd"}, "/loss"),
        (IMITATING[""] | {"losses": {"mse": 1, "kd": 1}}, "/losses/kd"),
        (IMITATING["/recovery_method"], "/recovery_method"),
        (IMITATING["/teacher"], "/teacher"),
    ):
        pointer, detail = refusal(task, [given])
        assert (pointer, "has one, which is always certain" in detail) == (f"/recipe/0{field}", True)
    submit(task, [IMITATING[""] | {"loss": "mse"}])
    submit(task, [RECOVERED])


def test_an_embedding_has_no_labels_to_mix_with_a_teacher():
    submit("embedding", [{"method": "distill", "loss": "cosine", "alpha": 1.0}])
    assert refusal("embedding", [{"method": "distill", "alpha": 0.5}])[0] == "/recipe/0/alpha"


@pytest.mark.parametrize("field", LABELLED)
@pytest.mark.parametrize("task", TASKS)
def test_only_an_embedding_has_no_labels_to_learn_from(task, field):
    recipe = [{"method": "prune"}, LABELLED[field]]
    if task == "embedding":
        pointer, detail = refusal(task, recipe)
        assert (pointer, "embedding has none" in detail) == (f"/recipe/1{field}", True)
    else:
        submit(task, recipe)


@pytest.mark.parametrize("task", TASKS)
def test_weights_are_of_classes(task):
    recipe = [{"method": "finetune", "class_weights": "balanced"}]
    if task in {"classification", "multilabel", "token_classification", "segmentation"}:
        submit(task, recipe)
        pointer, detail = refusal(task, [recipe[0] | {"class_weights": [1.0, 2.0]}])
        assert (pointer, "There are 2 weights" in detail) == ("/recipe/0/class_weights", True)
    elif task != "embedding":
        assert refusal(task, recipe)[0] == "/recipe/0/class_weights"


@pytest.mark.parametrize("weights", ["even", [], [-1.0, 1.0], [float("nan")] * 8])
def test_weights_that_are_none_are_refused_by_the_schema(weights):
    with pytest.raises(ValidationError):
        submit("classification", [{"method": "finetune", "class_weights": weights}])


def test_facts_that_were_found_before_there_were_tasks_are_still_read():
    old = {"format": "npz", "splits": {}, "fields": [], "classes": 10}
    assert DatasetFacts.model_validate(old).labels == LabelFacts(dtype="int64", shape=(), classes=10)


@pytest.mark.parametrize("task", TASKS)
def test_smoothing_is_of_labels_that_name_classes(task):
    recipe = [{"method": "finetune", "label_smoothing": 0.1}]
    if task == "regression":
        assert refusal(task, recipe)[0] == "/recipe/0/label_smoothing"
    elif task != "embedding":
        submit(task, recipe)
