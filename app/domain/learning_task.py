"""What a network learns, and with it how it is trained and judged."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal


class LearningTask(StrEnum):
    """What the outputs of a network mean."""

    CLASSIFICATION = "classification"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"
    EMBEDDING = "embedding"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105 - a token of a text
    LANGUAGE_MODELLING = "language_modelling"
    SEGMENTATION = "segmentation"


Metric = Literal[
    "accuracy", "top5_accuracy", "macro_f1", "micro_f1", "subset_accuracy", "r2", "cosine", "spearman",
    "token_accuracy", "mean_iou", "pixel_accuracy",
]  # fmt: skip
"""Those of which more is better: an objective can bound how much of one is lost."""

METRICS: Mapping[LearningTask, tuple[Metric, ...]] = {
    LearningTask.CLASSIFICATION: ("accuracy", "top5_accuracy", "macro_f1"),
    LearningTask.MULTILABEL: ("macro_f1", "micro_f1", "subset_accuracy"),
    LearningTask.REGRESSION: ("r2",),
    LearningTask.EMBEDDING: ("cosine", "spearman"),
    LearningTask.TOKEN_CLASSIFICATION: ("accuracy", "top5_accuracy", "macro_f1"),
    LearningTask.LANGUAGE_MODELLING: ("token_accuracy",),
    LearningTask.SEGMENTATION: ("mean_iou", "pixel_accuracy"),
}
"""What an objective of each task can be about, the headline first."""

SOFT_TARGETS = frozenset(
    {
        LearningTask.CLASSIFICATION,
        LearningTask.TOKEN_CLASSIFICATION,
        LearningTask.LANGUAGE_MODELLING,
        LearningTask.SEGMENTATION,
    }
)
"""Where outputs are logits of one distribution each, so that a teacher's can be imitated by their divergence."""
WEIGHED = frozenset(
    {
        LearningTask.CLASSIFICATION,
        LearningTask.MULTILABEL,
        LearningTask.TOKEN_CLASSIFICATION,
        LearningTask.SEGMENTATION,
    }
)
"""Where classes can have weights."""
SMOOTHED = SOFT_TARGETS | WEIGHED
"""Where a label is a class, of which smoothing gives the others a share."""
MASKS = ("attention_mask", "mask")
"""Names of the input that tells with 0 which positions of a row are filling."""
IGNORED = -100
"""The label of a position that neither teaches nor judges."""
TOP = 5
