import pytest
from pydantic import ValidationError

from app.domain.compatibility import check
from app.domain.dataset import DatasetFacts
from app.domain.errors import (
    DatasetMismatch,
    NothingToPrune,
    NotTrainable,
    UnsupportedNetwork,
    ValidationFailed,
    WinnowError,
)
from app.domain.job import JobSpec
from app.domain.model import ModelFacts
from app.domain.steps.quantize import QuantizeSpec

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


CALIBRATED = data(train={"samples": 9}, calibration={"samples": 9}, validation={"samples": 9})


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


@pytest.mark.parametrize(
    ("step", "pointer"),
    [
        ({"include": ["a", "b*"]}, "/recipe/0/include/1"),
        ({"overrides": {"b/~": {"bits": 4}}}, "/recipe/0/overrides/b~1~0"),
        ({"overrides": {"norm": {"keep_float": True}}}, "/recipe/0/overrides/norm"),
    ],
)
def test_a_pattern_that_names_nothing_to_quantize_is_refused(step, pointer):
    found, detail = refused(
        ValidationFailed, {"method": "quantize"} | step, model([layer("a"), layer("norm", "layer_norm")]), CALIBRATED
    )
    assert found == pointer
    assert "there are: a (conv2d)" in detail


def test_layers_to_quantize_go_by_name_pattern_and_operator():
    step = {"method": "quantize", "include": ["a", "stage*", "conv2d"], "exclude": ["add"]}
    spec = JobSpec(model_id="m", dataset_id="d", recipe=[step])
    check(spec, model([layer("a"), layer("stages.0")]), CALIBRATED)


@pytest.mark.parametrize("override", [{}, {"keep_float": False}, {"keep_float": True, "bits": 4}, {"bits": 1}])
def test_an_override_says_one_thing(override):
    with pytest.raises(ValidationError):
        JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "quantize", "overrides": {"a": override}}])


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


def quantized(step, facts, rows=None):
    """Give where and why a quantize step is refused."""
    spec = JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "quantize"} | step])
    with pytest.raises(WinnowError) as caught:
        check(spec, facts, rows or data())
    return caught.value.code, caught.value.errors[0].pointer, caught.value.detail


def quantizes(step, facts, rows=None):
    check(JobSpec(model_id="m", dataset_id="d", recipe=[{"method": "quantize"} | step]), facts, rows or data())


CONVOLUTION, LINEAR, WORDS = layer("conv"), layer("fc", "linear", quantizable=True), layer("words", "embedding")


@pytest.mark.parametrize(
    "step", [{"scheme": "weight_only"}, {"scheme": "dynamic"}, {"scheme": "qat", "weights": "int4"}]
)
def test_without_a_linear_layer_or_an_embedding_there_is_nothing_to_pack(step):
    code, pointer, detail = quantized(step, model([CONVOLUTION]))
    assert (code, pointer) == ("nothing_to_quantize", "/recipe/0")
    assert "conv (conv2d)" in detail
    quantizes(step, model([CONVOLUTION, LINEAR]))
    quantizes(step, model([WORDS]))


def test_each_scheme_knows_its_layers():
    quantizes({"scheme": "cast"}, model([CONVOLUTION]))
    quantizes({"scheme": "static"}, model([CONVOLUTION]))
    assert quantized({"scheme": "static"}, model([WORDS]))[0] == "nothing_to_quantize"
    assert quantized({"scheme": "cast"}, model([layer("norm", "layer_norm")]))[0] == "nothing_to_quantize"


def test_a_precision_that_the_target_lacks_is_refused():
    code, pointer, detail = quantized({"scheme": "cast", "weights": "bf16"}, model([CONVOLUTION]))
    assert (code, pointer) == ("unsupported_precision", "/recipe/0/weights")
    assert "onnxruntime-cpu" in detail
    assert "float16" in detail


def test_a_quantized_model_is_not_quantized_again():
    code, pointer, _ = quantized({}, with_(model([CONVOLUTION]), quantized=True))
    assert (code, pointer) == ("recipe_order", "/recipe/0")


def test_layers_that_are_left_out_must_be_there_and_leave_some():
    facts = model([CONVOLUTION, LINEAR])
    for field in ("exclude", "include"):
        assert quantized({"scheme": "cast", field: ["fc", "nothing.*"]}, facts)[:2] == (
            "validation_failed",
            f"/recipe/0/{field}/1",
        )
        assert quantized({"scheme": "dynamic", field: ["conv"]}, facts)[:2] == (
            "validation_failed",
            f"/recipe/0/{field}/0",
        )
    assert quantized({"exclude": ["fc", "c*"]}, facts)[:2] == ("nothing_to_quantize", "/recipe/0/exclude")
    kept = {"*": {"keep_float": True}, "fc": {"bits": 4}}
    assert quantized({"include": ["conv"], "overrides": kept}, facts)[:2] == ("nothing_to_quantize", "/recipe/0")
    quantizes({"overrides": kept}, facts)
    quantizes({"exclude": ["fc", "mul"]}, facts)
    quantizes({"exclude": ["linear"]}, facts)


def test_tables_can_be_left_in_float_and_have_no_width():
    facts = model([CONVOLUTION, WORDS])
    quantizes({"include": ["conv"], "exclude": ["words"]}, facts)
    quantizes({"overrides": {"*": {"bits": 4}}}, facts)
    assert quantized({"overrides": {"embedding": {"bits": 4}}}, facts)[:2] == (
        "validation_failed",
        "/recipe/0/overrides/embedding/bits",
    )


@pytest.mark.parametrize("pattern", ["stages.*", "clasifier", "silu"])
def test_what_can_be_neither_a_layer_nor_an_operator_is_no_exclusion(pattern):
    facts = model([CONVOLUTION, LINEAR, layer("norm", "layer_norm")])
    code, pointer, detail = quantized({"exclude": ["norm", "relu_1", "conv", pattern]}, facts)
    assert (code, pointer) == ("validation_failed", "/recipe/0/exclude/3")
    assert repr(pattern) in detail
    quantizes({"exclude": ["norm", "relu_1", "re*", "*_1"]}, facts)


@pytest.mark.parametrize(
    ("field", "value", "sense"),
    [
        ("percentile", 99.0, {"observer": "percentile"}),
        ("percentile", 99.0, {"overrides": {"conv": {"observer": "percentile"}}}),
        ("evaluations", 8, None),
        ("gate_rows", 64, None),
    ],
)
def test_fields_that_nothing_of_the_job_reads_are_refused_by_name(field, value, sense):
    facts = model([CONVOLUTION, LINEAR])
    code, pointer, detail = quantized({field: value}, facts)
    assert (code, pointer) == ("validation_failed", f"/recipe/0/{field}")
    assert field in detail
    if sense is not None:
        quantizes({field: value} | sense, facts)
    else:
        recipe = [{"method": "quantize", field: value}]
        check(JobSpec(model_id="m", dataset_id="d", recipe=recipe, objective={"max_drop": 0.1}), facts, data())


def test_of_overrides_that_match_the_one_that_says_most_holds():
    given = {"*": {"bits": 2}, "stages.*": {"bits": 3}, "conv2d": {"bits": 4}, "stages.0.*": {"bits": 5}}
    step = QuantizeSpec(method="quantize", overrides=given | {"stem": {"bits": 6}})
    assert [pattern for pattern, _ in step.ranked_overrides({"stem"})] == [
        "stem", "stages.0.*", "stages.*", "conv2d", "*"
    ]  # fmt: skip


def test_only_what_calibrates_needs_rows_for_it_and_only_what_trains_train_rows():
    facts, rows = model([CONVOLUTION, LINEAR]), data(validation={"samples": 9})
    for step in ({"scheme": "weight_only"}, {"scheme": "dynamic"}, {"scheme": "cast"}):
        quantizes(step, facts, rows)
    assert quantized({}, facts, rows)[:2] == ("dataset_mismatch", "/recipe/0")
    calibrated = data(calibration={"samples": 9}, validation={"samples": 9})
    quantizes({}, facts, calibrated)
    assert "trains" in quantized({"scheme": "qat"}, facts, calibrated)[2]
    assert quantized({"scheme": "qat"}, with_(facts, trainable=False))[:2] == ("not_trainable", "/recipe/0")


@pytest.mark.parametrize(
    "step",
    [
        {"scheme": "static", "weights": "int4"},
        {"scheme": "dynamic", "weights": "fp16"},
        {"scheme": "weight_only", "weights": "fp16"},
        {"scheme": "cast", "weights": "int8"},
        {"scheme": "static", "group_size": 32},
        {"scheme": "weight_only", "epochs": 3},
        {"scheme": "qat", "group_size": 64},
        {"scheme": "qat", "alpha": 0.5},
        {"scheme": "dynamic", "teacher": "baseline"},
        {"scheme": "dynamic", "observer": "mse"},
        {"scheme": "weight_only", "samples": 8},
        {"scheme": "cast", "reduce_range": "on"},
        {"scheme": "qat", "weights": "int4", "smooth_quant": "off"},
        {"scheme": "qat", "evaluations": 8},
        {"scheme": "dynamic", "overrides": {"a": {"bits": 4}}},
        {"scheme": "weight_only", "overrides": {"a": {"bits": 5}}},
        {"scheme": "cast", "overrides": {"a": {"observer": "mse"}}},
        {"scheme": "static", "smooth_quant": "off", "smooth_alpha": 0.7},
    ],
)
def test_fields_that_mean_nothing_to_the_scheme_are_refused_by_name(step):
    with pytest.raises(ValidationError) as caught:
        QuantizeSpec.model_validate({"method": "quantize"} | step)
    assert [fault["loc"] for fault in caught.value.errors()] == [(list(step)[-1],)]


@pytest.mark.parametrize(
    "step",
    [
        {"scheme": "dynamic", "reduce_range": "on", "evaluations": 8, "gate_rows": 9, "batch_size": 8},
        {"scheme": "weight_only", "overrides": {"a": {"bits": 4}, "b": {"keep_float": True}}},
        {"scheme": "qat", "observer": "mse", "samples": 8, "overrides": {"a": {"bits": 4, "observer": "mse"}}},
    ],
)
def test_fields_that_the_scheme_can_honour_are_taken(step):
    assert (
        QuantizeSpec.model_validate({"method": "quantize"} | step).model_dump(mode="json").items()
        >= {"scheme": step["scheme"]}.items()
    )


@pytest.mark.parametrize(
    "step", [{}, {"scheme": "cast"}, {"scheme": "weight_only"}, {"scheme": "qat", "teacher": "baseline"}]
)
def test_what_is_filled_in_is_the_same_step_when_it_is_read_again(step):
    filled = QuantizeSpec.model_validate({"method": "quantize"} | step)
    assert QuantizeSpec.model_validate(filled.model_dump(mode="json")) == filled


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
    assert detail.endswith("there are: a (conv2d).")


def test_wanda_needs_a_linear_layer():
    step = {"granularity": "weight", "criterion": "wanda"}
    pointer, _ = refused(NothingToPrune, step, model([layer("a")]))
    assert pointer == "/recipe/0/criterion"
    facts = model([layer("a"), layer("b", "linear", quantizable=True), layer("row", "linear", weight_shape=[1, 8])])
    accepted(step, facts)
    refused(NothingToPrune, step | {"exclude": ["b"]}, facts)


def test_a_block_has_to_divide_the_inputs_of_a_layer():
    facts = model([layer("a", weight_shape=[8, 3, 3, 3]), layer("up", "conv_transpose2d", weight_shape=[6, 4, 2, 2])])
    pointer, detail = refused(NothingToPrune, {"granularity": "2:4"}, facts)
    assert (pointer, "a has 3, up has 6" in detail) == ("/recipe/0/granularity", True)
    accepted({"granularity": "1:3"}, facts)
    accepted({"granularity": "2:4"}, model([layer("batched", "linear", weight_shape=[3, 6, 8])]))


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
