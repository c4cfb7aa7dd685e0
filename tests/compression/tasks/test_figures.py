"""Each figure against numbers worked by hand or a library's, and its interval against theory."""

import time
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, jaccard_score, log_loss, mean_absolute_error, r2_score, top_k_accuracy_score
from threadpoolctl import threadpool_limits

from app.domain.learning_task import IGNORED, LearningTask
from workers.compression import evaluation
from workers.compression.hits import by_class
from workers.compression.resampling import EXACT_ROWS, draw, p_value
from workers.compression.tasks import TASKS, metrics
from workers.compression.tasks.tokens import MOST_VALUES


def judged(task, outputs, labels, baseline=None, batch=64):
    batches = [(rows, outputs[rows]) for rows in np.split(np.arange(len(outputs)), range(batch, len(outputs), batch))]
    return evaluation.judge_batches(TASKS[task], batches, labels, baseline)


def figures(task, outputs, labels):
    return {name: found.value for name, found in evaluation.measure(judged(task, outputs, labels), seed=0).items()}


@contextmanager
def at_most(megabytes):
    """Fail where more is held beside what was there before."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()


def logits(rows=300, classes=8, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=rows)
    outputs = generator.standard_normal((rows, classes)).astype(np.float32) * 2
    outputs[np.arange(rows), labels] += 1.5
    return outputs, labels


@pytest.mark.parametrize("classes", [8, 60])
def test_figures_of_classes_are_those_of_scikit_learn(classes):
    outputs, labels = logits(classes=classes)
    found = figures(LearningTask.CLASSIFICATION, outputs, labels)
    shares = np.exp(metrics.log_softmax(outputs))
    every = np.arange(classes)
    assert found["accuracy"] == (outputs.argmax(1) == labels).mean()
    assert found["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, outputs, k=5, labels=every))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, outputs.argmax(1), average="macro"))
    assert found["log_loss"] == pytest.approx(log_loss(labels, shares, labels=every))


def test_of_five_classes_there_is_no_top_five():
    assert "top5_accuracy" not in figures(LearningTask.CLASSIFICATION, *logits(classes=5))


def test_calibration_error_by_hand():
    # Guo 2017, eq. 3: two rows at 0.9, one of them right; two at 0.6, both right: ½·|½ − 0.9| + ½·|1 − 0.6|.
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    found = figures(LearningTask.CLASSIFICATION, np.log(shares).astype(np.float32), np.array([0, 1, 0, 0]))
    assert found["calibration_error"] == pytest.approx(0.4, abs=1e-6)


def test_figures_of_many_labels_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = (generator.random((200, 6)) < 0.3).astype(np.float32)
    outputs = (labels * 2 - 1 + generator.standard_normal((200, 6))).astype(np.float32)
    found = figures(LearningTask.MULTILABEL, outputs, labels)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, outputs > 0, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, outputs > 0, average="micro"))
    assert found["subset_accuracy"] == ((outputs > 0) == (labels > 0)).all(axis=1).mean()


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("width", [None, 1, 3])
def test_figures_of_numbers_are_those_of_scikit_learn(offset, width):
    generator = np.random.default_rng(0)
    truth = generator.standard_normal((200,) if width is None else (200, width)) + offset
    shape = (200, width or 1)
    outputs = (truth.reshape(shape) + 0.5 * generator.standard_normal(shape)).astype(np.float32)
    before = judged(LearningTask.REGRESSION, outputs, truth.astype(np.float32))
    found = evaluation.measure(before, seed=0)
    flat = truth.astype(np.float32).reshape(shape)
    assert found["r2"].value == pytest.approx(r2_score(flat.astype(float), outputs.astype(float)))
    assert found["mse"].value == pytest.approx(np.square(flat.astype(float) - outputs).mean())
    assert found["mae"].value == pytest.approx(mean_absolute_error(flat, outputs))
    assert found["r2"].value == pytest.approx(
        evaluation.value_of(TASKS[LearningTask.REGRESSION], "r2", outputs, truth.astype(np.float32)), abs=1e-4
    )
    # However far from zero they are, the interval has the width that the spread gives it.
    assert 0.01 < found["r2"].ci95[1] - found["r2"].ci95[0] < 0.2


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_numbers_of_any_size_have_figures_and_intervals(scale):
    labels = np.random.default_rng(0).standard_normal((60, 2))
    plain, scaled = (
        evaluation.compare(
            *(judged(LearningTask.REGRESSION, (factor * side).astype(np.float32), (factor * labels).astype(np.float32))
              for side in (labels + 0.1, 0.8 * labels)),
            seed=0,
        )
        for factor in (1.0, scale)
    )  # fmt: skip
    for name, unit in (("r2", 1.0), ("mae", scale), ("mse", scale**2)):
        ours, wanted = scaled.compressed[name], plain.compressed[name]
        assert ours.value / unit == pytest.approx(wanted.value, rel=1e-5)
        assert np.array(ours.ci95) / unit == pytest.approx(np.array(wanted.ci95), rel=1e-3)
        assert np.array(scaled.drops[name].ci95) / unit == pytest.approx(np.array(plain.drops[name].ci95), rel=1e-3)


def test_an_output_that_is_the_same_in_every_row_does_not_count():
    truth = np.stack([np.arange(50), np.full(50, 1e5)], axis=1).astype(np.float32)
    outputs = truth + np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    expected = r2_score(truth[:, 0].astype(float), outputs[:, 0].astype(float))
    assert figures(LearningTask.REGRESSION, outputs, truth)["r2"] == pytest.approx(expected)


def test_embeddings_are_judged_by_the_baselines():
    generator = np.random.default_rng(0)
    ours = generator.standard_normal((120, 16)).astype(np.float32)
    theirs = ours + 0.5 * generator.standard_normal((120, 16)).astype(np.float32)
    before = judged(LearningTask.EMBEDDING, ours, None)
    found = evaluation.compare(before, judged(LearningTask.EMBEDDING, theirs, None, before), seed=0)
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (ours, theirs)]
    pairs = np.triu_indices(120, 1)
    alike = [(values @ values.T)[pairs] for values in units]
    assert found.baseline["cosine"].value == pytest.approx(1)
    assert found.baseline["spearman"].value == pytest.approx(1)
    assert found.compressed["cosine"].value == pytest.approx((units[0] * units[1]).sum(1).mean(), abs=1e-6)
    assert found.compressed["spearman"].value == pytest.approx(spearmanr(*alike).statistic, abs=1e-4)
    assert found.drops["cosine"].ci95[0] > 0
    assert found.drops["spearman"].ci95[0] < found.drops["spearman"].value < found.drops["spearman"].ci95[1]
    assert found.agreement == pytest.approx(1 - np.linalg.norm(ours - theirs) / np.linalg.norm(ours))


def test_ignored_positions_count_for_nothing():
    outputs, labels = logits(rows=60)
    outputs, labels = outputs.reshape(10, 6, 8), labels.reshape(10, 6)
    labels[3:, 4:] = -100
    shown = labels != -100
    found = figures(LearningTask.TOKEN_CLASSIFICATION, outputs, labels)
    flat = figures(LearningTask.CLASSIFICATION, outputs[shown], labels[shown])
    assert found == pytest.approx(flat)
    language = figures(LearningTask.LANGUAGE_MODELLING, outputs, labels)
    assert language["token_accuracy"] == pytest.approx(flat["accuracy"])
    assert language["perplexity"] == pytest.approx(np.exp(flat["log_loss"]))


def test_figures_of_pixels_take_little_more_room_than_the_outputs_do():
    generator = np.random.default_rng(0)
    outputs = generator.standard_normal((12, 21, 256, 256), dtype=np.float32)
    labels = generator.integers(21, size=(12, 256, 256))
    labels[3], labels[:, :9] = IGNORED, IGNORED
    assert outputs.size > 2 * MOST_VALUES
    with at_most(300):  # the terms of all pixels would be 400 MB
        found = {
            name: figure.value(figure.terms(outputs, labels))
            for name, figure in TASKS[LearningTask.SEGMENTATION].figures((21, 256, 256)).items()
        }
    there, chosen = labels != IGNORED, outputs.argmax(1)
    assert found["pixel_accuracy"] == pytest.approx((chosen == labels)[there].mean())
    assert found["mean_iou"] == pytest.approx(jaccard_score(labels[there], chosen[there], average="macro"))


def test_pixels_are_compared_in_few_bytes_each():
    labels = np.random.default_rng(0).integers(3, size=(10, 64, 64))
    labels[:, :16] = IGNORED
    outputs = np.moveaxis(np.eye(3, dtype=np.float32)[labels % 3], -1, 1)
    sides = [judged(LearningTask.SEGMENTATION, values, labels, batch=8) for values in (outputs, outputs[::-1])]
    assert {side.decisions.dtype for side in sides} == {np.dtype(np.uint8)}
    found = evaluation.compare(*sides, seed=0)
    there, chosen = labels != IGNORED, outputs[::-1].argmax(1)
    assert found.agreement == pytest.approx((outputs.argmax(1) == chosen)[there].mean())
    for row in found.classes:
        mine = there & (labels == row.class_)
        assert (row.samples, row.baseline) == (mine.sum(), 1)
        assert row.compressed == pytest.approx((chosen[mine] == row.class_).mean())
    many, hit = np.resize(np.arange(3, dtype=np.uint8), 2**23), np.ones(2**23, bool)
    with at_most(25):  # 64 MB in the eight bytes each that numpy counts by
        assert sum(row.samples for row in by_class(hit, hit, many)) == 2**23


def test_few_rows_of_many_numbers_are_drawn_in_little_room():
    labels = np.random.default_rng(0).standard_normal((50, 1000)).astype(np.float32)
    sides = [judged(LearningTask.REGRESSION, labels + off, labels) for off in (np.float32(0.5), np.float32(0.6))]
    with at_most(300):  # ten thousand samples of all sums at once would be 700 MB
        found = evaluation.compare(*sides, seed=0)
    assert found.drops["mse"].value == pytest.approx(0.36 - 0.25, abs=1e-5)
    assert found.drops["mse"].ci95 == pytest.approx((0.11, 0.11), abs=1e-3)


def test_intervals_have_the_width_that_theory_gives_a_mean():
    for rows in (400, 4000):
        values = np.random.default_rng(1).standard_normal((rows, 1)).astype(np.float32)
        found = judged(LearningTask.REGRESSION, values, np.zeros((rows, 1), np.float32))
        low, high = evaluation.measure(found, seed=0)["mae"].ci95
        expected = 2 * 1.96 * np.abs(values).std() / np.sqrt(rows)
        assert high - low == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("rows", [3, EXACT_ROWS, 3 * EXACT_ROWS])
def test_rows_are_drawn_as_often_as_chance_has_it(rows):
    weights = np.concatenate(list(draw(rows, seed=0)), axis=1)
    assert weights.shape == (rows, 10_000)
    assert weights.mean() == pytest.approx(1, abs=0.005)
    assert weights.var() == pytest.approx(1 - 1 / rows if rows <= EXACT_ROWS else 1, abs=0.02)
    if rows <= EXACT_ROWS:
        assert (weights.sum(axis=0) == rows).all()
    assert np.array_equal(weights[:, :7], next(draw(rows, seed=0))[:, :7])
    assert not np.array_equal(weights[:, :7], next(draw(rows, seed=1))[:, :7])


def test_a_difference_that_is_always_there_cannot_be_chance():
    assert p_value(np.ones(9999)) == pytest.approx(2 / 10_000)
    assert p_value(np.zeros(9999)) == 1
    assert p_value(np.linspace(-1, 1, 9999)) == pytest.approx(1, abs=1e-3)


def test_differences_are_paired():
    generator = np.random.default_rng(0)
    truth = generator.standard_normal((2000, 1)).astype(np.float32)
    outputs = truth + generator.standard_normal((2000, 1)).astype(np.float32)
    sides = [judged(LearningTask.REGRESSION, values, truth) for values in (outputs, outputs + 0.05 * truth)]
    found = evaluation.compare(*sides, seed=0)
    spread = {name: drop.ci95[1] - drop.ci95[0] for name, drop in found.drops.items()}
    low, high = found.baseline["mse"].ci95
    assert spread["mse"] < 0.2 * (high - low)
    # Of an error less is better: what is lost is what it grows by.
    assert found.drops["mse"].value == pytest.approx(found.compressed["mse"].value - found.baseline["mse"].value)
    assert found.drops["r2"].value == pytest.approx(found.baseline["r2"].value - found.compressed["r2"].value)


@pytest.mark.parametrize("classes", [10, 1000])
def test_ten_thousand_samples_of_ten_thousand_rows_take_less_than_a_second_for_all_figures_of_both_sides(classes):
    outputs, labels = logits(rows=10_000, classes=classes)
    sides = [judged(LearningTask.CLASSIFICATION, values, labels) for values in (outputs, outputs + 0.1)]
    with threadpool_limits(1):
        began = time.process_time()
        evaluation.compare(*sides, seed=0)
        assert time.process_time() - began < 1
