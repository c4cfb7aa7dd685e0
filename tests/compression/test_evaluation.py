import numpy as np
import pytest
from torch import nn

from app.domain.errors import CheckFailed, DatasetMismatch, UnsupportedNetwork
from app.domain.learning_task import IGNORED, LearningTask
from tests.compression.digits import write_network
from tests.compression.quantization.networks import make_network
from workers.compression import evaluation
from workers.compression.datasets import load_dataset
from workers.compression.formats import onnx, pt2
from workers.compression.hits import measure_drop, newcombe_interval
from workers.compression.tasks import TASKS


def logits(classes):
    return np.eye(4, dtype=np.float32)[classes]


def judged(outputs, labels, task=LearningTask.CLASSIFICATION, baseline=None):
    return evaluation.judge_batches(TASKS[task], [(np.arange(len(outputs)), outputs)], labels, baseline)


def measured(*arguments):
    return evaluation.measure(judged(*arguments), seed=0)


def test_accuracy_with_wilson_interval():
    # Wilson 1927 for 8 of 10: (0.8 + z²/20 ± z·sqrt(0.8·0.2/10 + z²/400)) / (1 + z²/10), z = 1.959964.
    found = measured(logits([0] * 8 + [1] * 2), np.zeros(10, int))["accuracy"]
    assert found.value == 0.8
    assert found.ci95 == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert found.samples == 10


def hits(both, lost, gained, neither):
    cells = ((True, True), (True, False), (False, True), (False, False))
    before, after = np.repeat(cells, (both, lost, gained, neither), axis=0).T
    return before, after


def test_drop_with_mcnemar_and_newcombe():
    before = np.array([True] * 90 + [False] * 10)
    after = before.copy()
    after[:9] = False
    after[90:92] = True
    drop = measure_drop(before, after)
    assert drop.value == pytest.approx(0.07)
    # Two tails of Binomial(11, ½) at 2: 2·(1 + 11 + 55)/2048.
    assert drop.p_value == pytest.approx(134 / 2048)
    # Normal approximation: 0.07 ± 1.96·sqrt((0.11 − 0.07²)/100) = 0.0064 to 0.1336; the test, with p above 0.05,
    # leaves 0 in.
    assert drop.ci95 == pytest.approx((0.0, 0.1336), abs=0.02)
    assert drop.ci95[0] < 0


def test_newcombes_interval_is_that_of_the_paper():
    # Newcombe 1998, table II, row (c): 36, 12, 2, 0 gives 0.0569 to 0.3404 by method 10.
    assert newcombe_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-4)


def test_the_interval_leaves_out_no_difference_only_where_the_test_does():
    for rows, right in ((50, 0.5), (200, 0.97), (1000, 0.9)):
        for lost in range(12):
            for gained in range(12):
                both = round(right * rows) - lost
                if both < 0 or rows - both - lost - gained < 0:
                    continue
                drop = measure_drop(*hits(both, lost, gained, rows - both - lost - gained))
                assert (drop.ci95[0] <= 0 <= drop.ci95[1]) == (drop.p_value > 0.05), (rows, lost, gained)


@pytest.mark.parametrize(("both", "neither"), [(200, 0), (100, 100), (0, 200)])
def test_where_no_row_changed_the_interval_is_no_certainty(both, neither):
    drop = measure_drop(*hits(both, 0, 0, neither))
    assert (drop.value, drop.p_value) == (0, 1)
    assert drop.ci95[0] < -0.005 < 0.005 < drop.ci95[1]


def test_no_difference_is_no_evidence():
    same = np.array([True, False, True])
    drop = measure_drop(same, same)
    assert (drop.value, drop.p_value) == (0, 1)


def test_comparison_is_row_by_row_and_by_class():
    labels = np.array([0, 0, 1, 1, 3])
    sides = [judged(logits(classes), labels) for classes in ([0, 0, 1, 1, 3], [0, 1, 1, 1, 2])]
    found = evaluation.compare(*sides, seed=0)
    assert found.agreement == 0.6
    assert found.drop.value == pytest.approx(0.4)
    assert [(row.class_, row.samples, row.baseline, row.compressed) for row in found.classes] == [
        (0, 2, 1.0, 0.5),
        (1, 2, 1.0, 1.0),
        (3, 1, 1.0, 0.0),
    ]


@pytest.mark.parametrize("task", [LearningTask.TOKEN_CLASSIFICATION, LearningTask.SEGMENTATION])
def test_rows_of_which_no_label_counts_judge_nothing(task):
    shape = (3, 5, 4, 4) if task is LearningTask.SEGMENTATION else (3, 4, 5)
    with pytest.raises(DatasetMismatch, match="no label of the validation rows counts"):
        judged(np.zeros(shape, np.float32), np.full((3, 4, 4)[: len(shape) - 1], IGNORED), task)


def test_pairs_of_two_rows_tell_no_objective():
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    evaluation.check_metric(judged(vectors, None, LearningTask.EMBEDDING), "spearman")
    few = judged(vectors[:2], None, LearningTask.EMBEDDING)
    evaluation.check_metric(few, "cosine")
    with pytest.raises(DatasetMismatch, match="three or more; validation has 2"):
        evaluation.check_metric(few, "spearman")


@pytest.mark.parametrize("labels", [np.full(1, 3.5), np.full(40, 0.1), np.full((40, 2), [0.1, 7.3])])
def test_labels_that_are_all_the_same_tell_no_objective_on_r2(labels):
    found = np.random.default_rng(0).standard_normal(labels.shape).astype(np.float32)
    same = judged(found, labels.astype(np.float32), LearningTask.REGRESSION)
    with pytest.raises(DatasetMismatch, match=f"rows, {len(labels)}, are all the same"):
        evaluation.check_metric(same, "r2")


def test_one_output_whose_labels_differ_tells_an_objective_on_r2():
    labels = np.stack([np.full(40, 0.1), np.arange(40)], axis=1).astype(np.float32)
    evaluation.check_metric(judged(labels * 0.9, labels, LearningTask.REGRESSION), "r2")


class Logarithms(nn.Module):
    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(64, 10)

    def forward(self, x):
        return self.classify(x.flatten(1)).log()


def test_outputs_that_are_not_finite_are_told_before_anything_is_compared(tmp_path, digits_data):
    network = make_network(Logarithms(), (1, 8, 8))
    onnx.save(network, tmp_path / "net.onnx")
    with pytest.raises(UnsupportedNetwork, match="first for row 0 of validation"):
        evaluation.judge(tmp_path / "net.onnx", digits_data, 1)
    ours = judged(np.ones((360, 10), np.float32), digits_data.labels("validation"))
    with pytest.raises(CheckFailed, match="compressed file"):
        evaluation.judge(tmp_path / "net.onnx", digits_data, 1, ours)


@pytest.mark.parametrize("batch", [None, 7])
def test_predictions_of_a_file_are_those_of_the_network(tmp_path, digits_folder, batch):
    write_network(tmp_path / "net.pt2", epochs=0, batch=batch)
    network = pt2.load(tmp_path / "net.pt2")
    data = load_dataset(digits_folder / "digits.npz", "npz", network.signature, seed=0)
    onnx.save(network, tmp_path / "net.onnx")
    found = evaluation.predict(tmp_path / "net.onnx", data, "validation", threads=1)
    assert found.shape == (360, 10)
    rows = np.arange(353, 360)
    expected = network.module(data.gather("validation", rows)[0][0]).detach().numpy()
    np.testing.assert_allclose(found[rows], expected, atol=1e-4)
    assert len(evaluation.predict(tmp_path / "net.onnx", data, "validation", threads=1, limit=10)) == 10
