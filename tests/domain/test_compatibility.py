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
