import pytest

from app.domain.compatibility import check
from app.domain.dataset import DatasetFacts
from app.domain.errors import DatasetMismatch, NothingToPrune, NotTrainable, UnsupportedNetwork, ValidationFailed
from app.domain.job import JobSpec
from app.domain.model import ModelFacts

SPLITS = {"train": {"samples": 9}, "validation": {"samples": 9}}


def layer(name, op="conv2d", **given):
    known = {"name": name, "op": op, "weight_shape": [8, 8], "parameters": 64, "macs": 64, "group": "g1"}
    return known | {"prunable": True, "quantizable": op == "conv2d"} | given


def model(layers, *, trainable=True):
    signature = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 8]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 10]}],
    }
    known = {"format": "pt2", "parameters": 64, "macs": 64, "signature": signature}
    return ModelFacts.model_validate(known | {"layers": layers, "trainable": trainable})


def data(**splits):
    fields = [{"name": "x", "dtype": "float32", "shape": [8]}, {"name": "y", "dtype": "int64", "shape": []}]
    return DatasetFacts.model_validate({"format": "npz", "classes": 10, "fields": fields, "splits": splits or SPLITS})


def refused(error, step, facts, rows=None):
    spec = JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "prune"} | step])
    with pytest.raises(error) as caught:
        check(spec, facts, rows or data())
    return caught.value.errors[0].pointer, caught.value.detail


def test_taylor_needs_train_rows_and_gradients():
    pointer, detail = refused(
        DatasetMismatch, {"criterion": "taylor"}, model([layer("a")]), data(validation={"samples": 9})
    )
    assert (pointer, "no train split" in detail) == ("/recipe/0/criterion", True)
    pointer, _ = refused(NotTrainable, {"criterion": "taylor"}, model([layer("a")], trainable=False))
    assert pointer == "/recipe/0/criterion"


def test_recovery_needs_train_rows_and_gradients():
    step = {"rounds": 2, "recovery_epochs": 1}
    pointer, detail = refused(DatasetMismatch, step, model([layer("a")]), data(validation={"samples": 9}))
    assert (pointer, "fewer than 5 train rows" in detail) == ("/recipe/0", True)
    pointer, _ = refused(NotTrainable, step, model([layer("a")], trainable=False))
    assert pointer == "/recipe/0"
    spec = JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "prune"} | step])
    check(spec, model([layer("a")]), data())


def test_bn_scale_needs_a_batch_norm_over_channels_that_can_go():
    fixed = layer("norm", "batch_norm", prunable=False)
    pointer, _ = refused(NothingToPrune, {"criterion": "bn_scale"}, model([layer("a"), fixed]))
    assert pointer == "/recipe/0/criterion"
    spec = JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "prune", "criterion": "bn_scale"}])
    check(spec, model([layer("a"), layer("norm", "batch_norm")]), data())


@pytest.mark.parametrize(
    ("step", "pointer"),
    [({"exclude": ["a", "b*"]}, "/recipe/0/exclude/1"), ({"overrides": {"b/~": 0.1}}, "/recipe/0/overrides/b~1~0")],
)
def test_a_pattern_that_names_no_layer_is_refused(step, pointer):
    found, detail = refused(ValidationFailed, step, model([layer("a")]))
    assert found == pointer
    assert "there are: a" in detail


def distilled(facts, rows):
    check(JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "distill"}]), facts, rows)


def with_(facts, **given):
    return type(facts).model_validate(facts.model_dump() | given)


@pytest.mark.parametrize("shape", [["batch"], ["batch", "width"], ["batch", 1, 28, 28]])
def test_accuracy_needs_one_logit_a_class(shape):
    signature = model([]).signature.model_dump() | {"outputs": [{"name": "y", "dtype": "float32", "shape": shape}]}
    with pytest.raises(UnsupportedNetwork) as caught:
        distilled(with_(model([layer("a")]), signature=signature), data())
    assert caught.value.errors[0].pointer == "/model_id"


def test_training_needs_rows_to_part():
    with pytest.raises(DatasetMismatch, match="fewer than 5 train rows"):
        distilled(model([layer("a")]), data(train={"samples": 4}, validation={"samples": 9}))
    distilled(model([layer("a")]), data(train={"samples": 5}, validation={"samples": 9}))


def test_floats_of_another_width_fit_and_integers_do_not():
    def rows(dtype):
        fields = [{"name": "x", "dtype": dtype, "shape": [8]}, {"name": "y", "dtype": "int64", "shape": []}]
        return with_(data(), fields=fields)

    distilled(model([layer("a")]), rows("float64"))
    with pytest.raises(DatasetMismatch, match="holds int64"):
        distilled(model([layer("a")]), rows("int64"))


def accepted(step, facts):
    check(JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "prune"} | step]), facts, data())


@pytest.mark.parametrize("granularity", ["channel", "weight", "2:4"])
def test_excluding_every_layer_is_refused(granularity):
    facts = model([layer("a"), layer("b", "linear")])
    step = {"granularity": granularity, "exclude": ["a", "b*"]}
    pointer, detail = refused(NothingToPrune, step, facts)
    assert (pointer, detail) == ("/recipe/0/exclude", "Every layer that can be pruned is excluded: a, b.")
    accepted(step | {"exclude": ["a"]}, facts)


def test_a_batch_norm_has_no_single_weights_to_exclude():
    facts = model([layer("a"), layer("b1", "batch_norm")])
    pointer, detail = refused(ValidationFailed, {"granularity": "weight", "exclude": ["b1"]}, facts)
    assert pointer == "/recipe/0/exclude/0"
    assert detail.endswith("there are: a.")


def test_wanda_needs_a_linear_layer():
    step = {"granularity": "weight", "criterion": "wanda"}
    pointer, _ = refused(NothingToPrune, step, model([layer("a")]))
    assert pointer == "/recipe/0/criterion"
    facts = model([layer("a"), layer("b", "linear")])
    accepted(step, facts)
    refused(NothingToPrune, step | {"exclude": ["b"]}, facts)


def test_a_block_has_to_divide_the_inputs_of_a_layer():
    facts = model([layer("a", weight_shape=[8, 3, 3, 3]), layer("up", "conv_transpose2d", weight_shape=[6, 4, 2, 2])])
    pointer, detail = refused(NothingToPrune, {"granularity": "2:4"}, facts)
    assert (pointer, "a has 3, up has 6" in detail) == ("/recipe/0/granularity", True)
    accepted({"granularity": "1:3"}, facts)


def test_a_minimum_has_to_leave_something_to_remove():
    facts = model([layer("a", weight_shape=[8, 3, 3, 3]), layer("norm", "batch_norm", weight_shape=[8])])
    pointer, _ = refused(NothingToPrune, {"minimum_channels": 8}, facts)
    assert pointer == "/recipe/0/minimum_channels"
    accepted({"minimum_channels": 7}, facts)


@pytest.mark.parametrize("granularity", ["channel", "weight"])
def test_overrides_have_to_leave_a_layer_with_an_amount(granularity):
    facts = model([layer("a"), layer("b")])
    step = {"granularity": granularity, "amount": 0.5}
    pointer, _ = refused(NothingToPrune, step | {"overrides": {"*": 0}}, facts)
    assert pointer == "/recipe/0/overrides"
    accepted(step | {"overrides": {"a": 0}}, facts)
    accepted(step | {"overrides": {"a": 0.1, "*": 0}}, facts)
