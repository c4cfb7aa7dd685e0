"""What a network learns, and with it how it is trained and judged."""

from enum import StrEnum


class LearningTask(StrEnum):
    """What the outputs of a network mean."""

    CLASSIFICATION = "classification"
