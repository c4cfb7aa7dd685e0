"""What a step that distils may say, and which models it may name."""

import pytest
from pydantic import ValidationError

from app.domain.compatibility import check, distill
from app.domain.errors import (
    LabelsOutOfRange,
    ModelMismatch,
    NoStudent,
    NotTrainable,
    RecipeOrder,
    TaskMismatch,
    ValidationFailed,
    WinnowError,
)
from app.domain.ids import Prefix, new_id
from app.domain.job import JobSpec
from app.domain.learning_task import LearningTask
from app.domain.steps.distill import DEFAULT_LOSS, DistillSpec
from tests.factories import dataset_facts, layer, model_facts

OTHER = new_id(Prefix.MODEL)
OUTPUTS = [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]


def step(**given):
    return {"method": "distill", **given}


def test_bodies_of_before_mean_what_they_did():
    spec = DistillSpec(**step(teacher="baseline", temperature=4.0, alpha=0.7)).filled("classification")
    assert (spec.imitated, spec.alpha, spec.temperature) == ({"kd": 1.0}, 0.7, 4.0)
    assert DistillSpec(**step()).filled("classification") == spec
    assert spec.models == {}


@pytest.mark.parametrize(("given", "imitated", "alpha"), [
    ({"loss": "cosine"}, {"cosine": 1.0}, 1.0),
    ({"losses": {"mse": 2, "cosine": 1}}, {"mse": 2.0, "cosine": 1.0}, 1.0),
    ({"losses": {"mse": 2, "hint": 1}}, {"mse": 2.0, "hint": 1.0}, 0.7),
    ({"loss": "mse", "alpha": 0.5}, {"mse": 1.0}, 0.5),
    ({"loss": "hint"}, {"hint": 1.0}, 0.7),
])  # fmt: skip
def test_losses_and_the_share_that_the_teacher_has(given, imitated, alpha):
    spec = DistillSpec(**step(**given)).filled("classification")
    assert (spec.imitated, spec.alpha) == (imitated, alpha)
    assert DistillSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(("given", "said"), [
    ({"loss": "kd", "losses": {"kd": 1}}, "one loss or losses"),
    ({"loss": "mse", "temperature": 2}, "temperature is of kd and dkd"),
    ({"loss": "cosine", "logit_standardization": True}, "logit_standardization is of kd"),
    ({"loss": "kd", "dkd_beta": 3}, "dkd_beta is of dkd"),
    ({"dkd_alpha": 2}, "dkd_alpha is of dkd"),
    ({"loss": "kd", "hints": [{"teacher": "a", "student": "b"}]}, "hints are of the loss hint"),
    ({"losses": {"kd": 0}}, "greater than 0"),
    ({"losses": {"kld": 1}}, "'kd', 'dkd'"),
    ({"teacher": "mdl_1"}, "pattern"),
    ({"student": {}}, "a width, a depth or both"),
    ({"student": {"width": 1.0}}, "less than 1"),
    ({"student": "baseline"}, "pattern"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        DistillSpec(**step(**given))


def test_an_embedding_needs_no_labels_whatever_it_imitates():
    for given in ({"loss": "hint"}, {"losses": {"hint": 1, "cosine": 2}}, {"loss": "cosine"}, {}):
        filled = DistillSpec(**step(**given)).filled("embedding")
        assert (filled.alpha, filled.needs_labels) == (1.0, False)


def test_a_default_of_before_in_a_recipe_of_before_is_let_through():
    assert DistillSpec(**step(loss="kd", dkd_beta=8.0)).imitated == {"kd": 1.0}
    assert DistillSpec(**step(loss="dkd")).dkd_beta == 2


def submit(recipe, model=None, dataset=None, **others):
    spec = JobSpec(model_id="m", dataset_id="d", recipe=recipe)
    check(spec, model or model_facts(), dataset or dataset_facts(), {OTHER: model_facts(**others)})


def refused(error, pointer, recipe, model=None, dataset=None, **others):
    with pytest.raises(error) as caught:
        submit(recipe, model, dataset, **others)
    assert [fault.pointer for fault in caught.value.errors] == [pointer]
    return caught.value.detail


def signature(inputs=None, outputs=None):
    known = model_facts().signature.model_dump()
    return {"inputs": inputs or known["inputs"], "outputs": outputs or known["outputs"]}


def test_another_model_may_teach_and_learn_where_it_fits():
    submit([step(teacher=OTHER), step(teacher=OTHER)])
    submit([step(student=OTHER), {"method": "prune"}, {"method": "quantize"}])
    submit([step(teacher=OTHER, student={"width": 0.5, "depth": 0.5})])


WIDE = [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}]


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_inputs_must_be_the_models(role):
    for change in ({"shape": ["batch", 3, 8, 8]}, {"dtype": "float64"}, {"name": "image"}):
        inputs = [signature()["inputs"][0] | change]
        detail = refused(ModelMismatch, f"/recipe/0/{role}", [step(**{role: OTHER})], signature=signature(inputs))
        assert str(next(iter(change.values()))) in detail


def test_outputs_must_be_of_one_shape_but_for_hints():
    five = signature(outputs=[OUTPUTS[0] | {"shape": ["batch", 5]}])
    assert "['batch', 5]" in refused(ModelMismatch, "/recipe/0/teacher", [step(teacher=OTHER)], signature=five)
    submit([step(teacher=OTHER, loss="hint")], signature=five)
    two = signature(outputs=[OUTPUTS[0] | {"shape": ["batch", 5]}, OUTPUTS[0] | {"name": "output_1"}])
    submit([step(teacher=OTHER, teacher_output="output_1")], signature=two)
    named = step(teacher=OTHER, teacher_output="logits")
    assert "output, output_1" in refused(ModelMismatch, "/recipe/0/teacher_output", [named], signature=two)
    refused(LabelsOutOfRange, "/recipe/0/student", [step(student=OTHER)], signature=five)
    few = dataset_facts(classes=5)
    refused(ModelMismatch, "/recipe/0/student", [step(student=OTHER)], dataset=few, signature=five)
    submit([step(student=OTHER, alpha=0, loss="hint")], dataset=few, signature=five)


def test_a_student_stands_in_the_first_step_alone():
    for student in (OTHER, {"width": 0.5}):
        refused(RecipeOrder, "/recipe/1/student", [{"method": "prune"}, step(student=student)])
        refused(RecipeOrder, "/recipe/1/student", [step(), step(student=student)])


def test_a_student_must_be_one_that_can_learn_and_later_steps_are_held_against_it():
    refused(NotTrainable, "/recipe/0/student", [step(student=OTHER)], trainable=False)
    refused(NotTrainable, "/recipe/0/student", [step(student=OTHER)], quantized=True)
    submit([step(student=OTHER)], model_facts(trainable=False))
    named = [layer(name="theirs")]
    recipe = [step(student=OTHER), {"method": "prune", "exclude": ["conv1"]}]
    refused(ValidationFailed, "/recipe/1/exclude/0", recipe, layers=named)


def test_hints_name_layers_that_are_there():
    hints = [{"teacher": "conv1", "student": "conv9"}]
    assert "it has conv1" in refused(ValidationFailed, "/recipe/0/hints/0/student", [step(loss="hint", hints=hints)])
    hints = [{"teacher": "theirs", "student": "conv1"}]
    submit([step(loss="hint", teacher=OTHER, hints=hints)], layers=[layer(name="theirs")])


def test_a_width_needs_a_layer_that_can_be_narrowed():
    whole = model_facts(layers=[layer(prunable=False, reason="it reaches the outputs")])
    detail = refused(NoStudent, "/recipe/0/student/width", [step(student={"width": 0.5})], whole)
    assert "conv1 (conv2d): it reaches the outputs" in detail


@pytest.mark.parametrize(("blocks", "depth", "said"), [
    ((), 0.5, "there is none among conv1"),
    ((("conv1",), ("conv2", "conv3")), 0.9, "rounds to 2 of the 2 blocks that can go: conv1; conv2, conv3"),
    ((("conv1",), ("conv2",)), 0.1, "rounds to 0 of the 2 blocks"),
])  # fmt: skip
def test_a_depth_needs_blocks_that_can_go(blocks, depth, said):
    detail = refused(NoStudent, "/recipe/0/student/depth", [step(student={"depth": depth})], model_facts(blocks=blocks))
    assert said in detail


def test_a_depth_is_let_through_where_blocks_can_go_or_nobody_looked_for_them():
    submit([step(student={"depth": 0.5})])
    submit([step(student={"depth": 0.5})], model_facts(blocks=(("conv1",), ("conv2",))))


BARE = dataset_facts(fields=[{"name": "x", "dtype": "float32", "shape": [1, 8, 8]}], classes=None)
EIGHT = [{"name": "y", "dtype": "float32", "shape": ["batch", 8]}]


def test_an_embedding_takes_a_student_and_a_teacher_of_its_own_size():
    eight = signature(outputs=EIGHT)
    assert "['batch', 8], the model's ['batch', 10]" in refused(
        ModelMismatch, "/recipe/0/student", [step(teacher=OTHER, student=OTHER)], dataset=BARE, signature=eight
    )
    refused(ModelMismatch, "/recipe/0/teacher", [step(teacher=OTHER, loss="hint")], dataset=BARE, signature=eight)
    submit([step(teacher=OTHER, student=OTHER)], dataset=BARE)
    submit([step(loss="hint")], dataset=BARE)


@pytest.mark.parametrize(("given", "field"), [
    ({"alpha": 0.5}, "alpha"), ({"alpha_end": 0.5}, "alpha_end"),
])  # fmt: skip
def test_labels_that_an_embedding_lacks_are_refused_where_they_were_asked_for(given, field):
    refused(TaskMismatch, f"/recipe/0/{field}", [step(loss="hint", **given)], dataset=BARE)


def test_an_embedding_loses_nothing_to_bound_where_another_model_teaches():
    others = {OTHER: model_facts()}
    for teacher, wrong in (("baseline", False), (OTHER, True)):
        spec = JobSpec(model_id="m", dataset_id="d", recipe=[step(teacher=teacher)], objective={"max_drop": 0.01})
        if not wrong:
            check(spec, model_facts(), BARE, others)
            continue
        with pytest.raises(TaskMismatch, match=f"and {OTHER} teaches others") as caught:
            check(spec, model_facts(), BARE, others)
        assert caught.value.errors[0].pointer == "/objective"


FEATURES = {"conv1": (8, 8, 8), "conv2": (16, 4, 4)}


def test_hints_are_of_layers_inside_that_match_in_size():
    layers = [layer(), layer(name="conv2"), layer(name="fc")]

    def hint(teacher, student):
        return [step(loss="hint", hints=[{"teacher": teacher, "student": student}])]

    known = model_facts(layers=layers, features=FEATURES)
    submit(hint("conv1", "conv1"), known)
    assert "the network's own output" in refused(
        ValidationFailed, "/recipe/0/hints/0/teacher", hint("fc", "conv1"), known
    )
    refused(ValidationFailed, "/recipe/0/hints/0/student", hint("conv1", "fc"), known)
    detail = refused(ValidationFailed, "/recipe/0/hints/0", hint("conv1", "conv2"), known)
    assert "conv2 of the student gives [4, 4] places a row, conv1 of the teacher [8, 8]" in detail
    submit(hint("conv1", "conv2"), model_facts(layers=layers))


@pytest.mark.parametrize(("given", "field"), [
    ({"loss": "hint"}, "loss"), ({"losses": {"kd": 1, "hint": 1}}, "losses/hint"),
])  # fmt: skip
def test_hints_need_a_size_in_common(given, field):
    known = model_facts(features=FEATURES)
    submit([step(teacher=OTHER, **given)], known, features={"theirs": (9, 4, 4)})
    refused(ValidationFailed, f"/recipe/0/{field}", [step(teacher=OTHER, **given)], known, features={"a": (9, 2, 2)})


def test_the_output_that_fits_is_named():
    two = signature(outputs=[OUTPUTS[0] | {"shape": ["batch", 5]}, OUTPUTS[0] | {"name": "output_1"}])
    with pytest.raises(ModelMismatch) as caught:
        submit([step(teacher=OTHER)], signature=two)
    assert caught.value.hint == "Name as teacher_output one that fits: output_1."


def test_every_task_has_a_loss():
    assert set(LearningTask) <= DEFAULT_LOSS.keys()
    for task, loss in DEFAULT_LOSS.items():
        assert DistillSpec(**step()).filled(task).imitated == {loss: 1.0}


@pytest.mark.parametrize("given", [{"loss": "kd"}, {"losses": {"mse": 1, "dkd": 1}}, {"temperature": 2.0}])
def test_losses_of_classes_are_refused_where_there_are_none(given):
    with pytest.raises(WinnowError) as caught:
        distill._check_losses(DistillSpec(**step(**given)), "regression", model_facts(), "/recipe/0")
    assert caught.value.errors[0].pointer == f"/recipe/0/{next(iter(given))}"
