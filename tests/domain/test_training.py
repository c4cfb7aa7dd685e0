"""What a step that trains refuses, and where it says so."""

import pytest
from pydantic import ValidationError

from app.domain.compatibility import check
from app.domain.dataset import DatasetFacts
from app.domain.errors import DatasetMismatch, TaskMismatch, UnsupportedNetwork, ValidationFailed
from app.domain.job import JobSpec
from app.domain.model import ModelFacts
from app.domain.recipe import SPECS
from app.domain.steps.quantize import QuantizeSpec
from tests.factories import dataset_facts, layer, model_facts

IMAGE = {"name": "x", "dtype": "float32", "shape": ["batch", 3, 16, "width"]}


def model(*inputs):
    output = {"name": "y", "dtype": "float32", "shape": ["batch", 10]}
    layer = {"name": "a", "op": "conv2d", "weight_shape": [8, 3, 3, 3], "parameters": 216, "macs": 9}
    signature = {"inputs": inputs or (IMAGE,), "outputs": [output]}
    known = {"format": "pt2", "parameters": 216, "macs": 9, "trainable": True, "signature": signature}
    return ModelFacts.model_validate(known | {"layers": [layer | {"prunable": True, "quantizable": True}]})


def refused(error, step, *inputs):
    facts = model(*inputs)
    fields = [tensor.model_dump() | {"shape": tensor.shape[1:]} for tensor in facts.signature.inputs]
    fields = [field | {"shape": [16 if isinstance(size, str) else size for size in field["shape"]]} for field in fields]
    label = {"name": "y", "dtype": "int64", "shape": []}
    splits = {"train": {"samples": 100}, "validation": {"samples": 9}}
    data = DatasetFacts.model_validate({"format": "npz", "classes": 10, "fields": [*fields, label], "splits": splits})
    spec = JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "prune"}, {"method": "finetune"} | step])
    if error is None:
        check(spec, facts, data)
        return None
    with pytest.raises(error) as caught:
        check(spec, facts, data)
    return caught.value.errors[0].pointer, caught.value.detail


@pytest.mark.parametrize("method", ["finetune", "distill"])
@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum", "momentum is of the optimizer sgd; it is adamw"),
        ({"decay_at": [0.5]}, "decay_at", "decay_at is of the schedule step; it is cosine"),
        ({"schedule": "constant", "decay_factor": 0.5}, "decay_factor", "of the schedule step; it is constant"),
        ({"schedule": "step", "decay_at": [0.7, 0.2]}, "decay_at", "must rise"),
        ({"schedule": "step", "decay_at": [0.2, 1.0]}, "decay_at", "less than 1"),
        ({"epochs": 3, "warm_up_epochs": 3}, "warm_up_epochs", "less than the 3 epochs"),
        ({"epochs": 3, "early_stopping": 5}, "early_stopping", "less than the 3 epochs"),
        ({"clip_norm": 0}, "clip_norm", "greater than 0"),
        ({"ema": 1}, "ema", "less than 1"),
        ({"mixup": 0}, "mixup", "greater than 0"),
        ({"accumulate": 0}, "accumulate", "greater than or equal to 1"),
        ({"precision": "fp16"}, "precision", "'auto', 'float32' or 'bf16'"),
        ({"compile": "on"}, "compile", "'off' or 'auto'"),
        ({"augment": {}}, "augment", "give flip, crop, cutout"),
        ({"augment": {"rotate": 5}}, "rotate", "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(method, given, field, message):
    with pytest.raises(ValidationError) as caught:
        SPECS[method].model_validate({"method": method} | given)
    (error,) = caught.value.errors()
    assert field in error["loc"]
    assert message in error["msg"]


def test_every_field_of_a_choice_is_taken_beside_it():
    given = {"schedule": "step", "decay_at": [0.3], "decay_factor": 0.5, "momentum": 0, "warm_up_epochs": 0.5}
    step = SPECS["finetune"].model_validate({"method": "finetune"} | given)
    assert (step.decay_at, step.decay_factor, step.momentum) == ((0.3,), 0.5, 0)


def test_images_alone_are_augmented():
    augment = {"augment": {"flip": True, "crop": 2, "cutout": 4}}
    assert refused(None, augment) is None
    pointer, detail = refused(UnsupportedNetwork, augment, {"name": "x", "dtype": "float32", "shape": ["batch", 8]})
    assert pointer == "/recipe/1/augment"
    assert "x is float32 ['batch', 8]" in detail
    refused(UnsupportedNetwork, augment, IMAGE | {"dtype": "uint8"})
    refused(UnsupportedNetwork, augment, IMAGE, IMAGE | {"name": "z"})


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_no_more_of_an_image_goes_than_there_is(name):
    assert refused(None, {"augment": {name: 15}}) is None
    pointer, detail = refused(UnsupportedNetwork, {"augment": {name: 16}})
    assert pointer == f"/recipe/1/augment/{name}"
    assert "16 pixels; images are 16 by width" in detail


def test_tokens_are_not_mixed():
    tokens = {"name": "ids", "dtype": "int64", "shape": ["batch", 12]}
    pointer, detail = refused(UnsupportedNetwork, {"mixup": 0.2}, tokens)
    assert (pointer, "'ids' is int64" in detail) == ("/recipe/1/mixup", True)
    assert refused(None, {"mixup": 0.2}) is None


PACKED = {"method": "quantize", "scheme": "qat", "weights": "int4"}


def test_batch_norms_take_more_than_one_row():
    norm = {"name": "bn", "op": "batch_norm", "weight_shape": [8], "parameters": 16, "macs": 0}
    norm |= {"prunable": True, "quantizable": False}
    data = dataset_facts(fields=[{"name": "x", "dtype": "float32", "shape": [1, 8, 8]}, {"name": "y", "dtype": "int64",
                         "shape": []}])  # fmt: skip
    fixed = {"inputs": [{"name": "x", "dtype": "float32", "shape": [1, 1, 8, 8]}], "outputs": [
        {"name": "y", "dtype": "float32", "shape": [1, 10]}]}  # fmt: skip
    plain = [layer(), layer(name="fc", op="linear", weight_shape=[10, 64])]
    steps = [{"method": "finetune"}, {"method": "distill"}]
    for recipe, facts, pointer in (
        *(([step | {"batch_size": 1}], {}, "/recipe/0/batch_size") for step in steps),
        *(([step], {"signature": fixed}, "/recipe/0") for step in steps),
        ([{"method": "prune", "rounds": 2, "recovery_epochs": 1}], {"signature": fixed}, "/recipe/0"),
        ([PACKED | {"training_batch_size": 1}], {}, "/recipe/0/training_batch_size"),
    ):
        spec = JobSpec(model_id="m", dataset_id="d", recipe=recipe)
        check(spec, model_facts(layers=plain, **facts), data)
        with pytest.raises(ValidationFailed, match="the batch norm bn trains on two") as caught:
            check(spec, model_facts(layers=[*plain, norm], **facts), data)
        assert caught.value.errors[0].pointer == pointer
    check(JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "prune"}]), model_facts(layers=[*plain, norm],
          signature=fixed), data)  # fmt: skip


def test_weights_that_are_all_zero_are_refused():
    pointer, detail = refused(TaskMismatch, {"class_weights": [0] * 10})
    assert (pointer, "All weights are 0" in detail) == ("/recipe/1/class_weights", True)
    assert refused(None, {"class_weights": [0] * 9 + [1]}) is None


def test_an_update_has_rows_enough():
    assert refused(None, {"batch_size": 25, "accumulate": 4}) is None
    pointer, detail = refused(DatasetMismatch, {"batch_size": 26, "accumulate": 4})
    assert (pointer, "takes 104 rows; there are 100" in detail) == ("/recipe/1/accumulate", True)
    fixed = IMAGE | {"shape": [64, 3, 16, 16]}
    refused(DatasetMismatch, {"batch_size": 1, "accumulate": 2}, fixed)


def test_rounding_is_learned_in_float32():
    for more in ({}, {"teacher": "baseline"}):
        assert QuantizeSpec(method="quantize", scheme="qat", **more).training.precision == "float32"
