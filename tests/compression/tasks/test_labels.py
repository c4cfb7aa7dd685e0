"""What rows are labelled with: by y, by a mask, and by the words that follow."""

import numpy as np
import pytest
import torch

from app.domain.errors import DatasetMismatch
from app.domain.learning_task import LearningTask
from app.domain.model import Signature
from workers.compression.datasets import load_dataset

WORDS = np.array([[3, 4, 5, 6], [7, 8, 9, 1], [2, 2, 2, 2], [1, 2, 3, 9], [5, 4, 3, 2]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]])


def signature(*names, output=("batch", 4, 12)):
    inputs = [{"name": name, "dtype": "int64", "shape": ["batch", 4]} for name in names]
    return Signature.model_validate(
        {"inputs": inputs, "outputs": [{"name": "out", "dtype": "float32", "shape": output}]}
    )


def load(folder, fields, shapes, task=None):
    # Validation repeats nothing of train, and nothing else matters of it here.
    rows = {f"train.{name}": values for name, values in fields.items()}
    rows |= {f"validation.{name}": values[:1] + (name == "input_ids") for name, values in fields.items()}
    np.savez(folder / "d.npz", **rows)
    return load_dataset(folder / "d.npz", "npz", shapes, seed=0, task=task and LearningTask(task))


@pytest.mark.parametrize("mask", ["attention_mask", "mask"])
def test_words_are_labels_one_position_on_where_both_are_shown(tmp_path, mask):
    fields = {"input_ids": WORDS, mask: MASK}
    data = load(tmp_path, fields, signature("input_ids", mask), "language_modelling")
    expected = [
        [4, 5, 6, -100],
        [8, -100, -100, -100],
        [-100, 2, 2, -100],
        [-100, -100, 9, -100],
        [4, 3, -100, -100],
    ]
    assert data.labels("train").tolist() == expected
    _, labels = data.gather("train", np.array([3, 0]))
    assert (labels.dtype, labels.tolist()) == (torch.int64, [expected[3], expected[0]])
    assert data.labelled("train")


def test_without_a_mask_only_the_last_word_has_none_after_it(tmp_path):
    data = load(tmp_path, {"input_ids": WORDS}, signature("input_ids"), "language_modelling")
    assert data.labels("train")[0].tolist() == [4, 5, 6, -100]


def test_labels_of_a_language_model_are_taken_as_they_are(tmp_path):
    given = np.where(WORDS > 5, -100, WORDS)
    fields = {"input_ids": WORDS, "attention_mask": MASK, "y": given}
    data = load(tmp_path, fields, signature("input_ids", "attention_mask"), "language_modelling")
    np.testing.assert_array_equal(data.labels("train"), np.where(MASK == 1, given, -100))


def test_tags_of_filling_are_ignored(tmp_path):
    fields = {"input_ids": WORDS, "attention_mask": MASK, "y": WORDS.astype(np.uint8)}
    data = load(tmp_path, fields, signature("input_ids", "attention_mask"))
    assert data.task is LearningTask.TOKEN_CLASSIFICATION
    np.testing.assert_array_equal(data.labels("train"), np.where(MASK == 1, WORDS, -100))
    np.testing.assert_array_equal(data.gather("train", np.arange(5))[1], data.labels("train"))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_numbers_come_as_floats_of_the_networks_width(tmp_path, dtype):
    fields = {"input_ids": WORDS, "y": (WORDS[:, 0] / 4).astype(dtype)}
    data = load(tmp_path, fields, signature("input_ids", output=("batch", 1)))
    assert data.task is LearningTask.REGRESSION
    assert data.gather("train", np.arange(5))[1].dtype is torch.float32
    np.testing.assert_allclose(data.labels("train"), WORDS[:, 0] / 4)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8])
def test_flags_come_as_floats_for_their_loss(tmp_path, dtype):
    fields = {"input_ids": WORDS, "y": (WORDS[:, :3] > 3).astype(dtype)}
    data = load(tmp_path, fields, signature("input_ids", output=("batch", 3)))
    assert data.task is LearningTask.MULTILABEL
    assert data.gather("train", np.arange(5))[1].tolist() == (WORDS[:, :3] > 3).astype(float).tolist()


def test_an_embedding_has_no_labels_whatever_the_data_set_holds(tmp_path):
    for fields in ({"input_ids": WORDS}, {"input_ids": WORDS, "y": WORDS[:, 0]}):
        data = load(tmp_path, fields, signature("input_ids", output=("batch", 7)), "embedding")
        assert not data.labelled("train")
        assert data.gather("train", np.arange(2))[1].numel() == 0
        with pytest.raises(DatasetMismatch, match=r"train\.y"):
            data.labels("train")
