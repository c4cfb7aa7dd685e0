"""Rows that layers are put back to float by: never those of validation, which judge the result."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.compatibility import learning
from app.domain.learning_task import LearningTask
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.inference import held_at_once
from workers.compression.network import Network
from workers.compression.quantization.calibration import SPLIT, Inputs, read_rows
from workers.compression.step import Context

FEWEST = 100
"""With fewer rows of one kind than this, another kind is asked first."""
TRAIN = "train"


@dataclass(frozen=True)
class GateRows:
    """Batches of rows and, where the split has them, their labels; ``kind`` says in words which rows they are."""

    batches: list[Inputs]
    labels: NDArray[Any] | None
    count: int
    kind: str
    metric: str
    """The one that is held: the objective's or, without labels, how far the float network's own outputs are kept."""

    def as_json(self) -> dict[str, Any]:
        return {"rows": self.count, "rows_from": self.kind, "metric": self.metric}


def choose_rows(network: Network, context: Context, spec: QuantizeSpec, *, observed: int) -> GateRows:
    """Take the first kind of rows of which there are enough, else the one with most.

    The first ``observed`` calibration rows are those that ranges were found on.

    1. calibration rows with labels that no range was found on; 2. train rows: the network knows their labels by
    heart, so that it may lose less on them than on new ones; 3. calibration rows without labels that no range was
    found on; 4. those that ranges were found on.
    """
    data, most = context.data, held_at_once(network, context.data, spec.gate_rows)
    held_out = np.arange(data.rows(SPLIT))[observed:][:most]
    seen = np.arange(data.rows(SPLIT))[:observed][:most]
    train = np.arange(data.rows(TRAIN))[:most]
    kinds = [
        (SPLIT, held_out, "calibration rows that no range was found on"),
        (TRAIN, train, "train rows"),
        (SPLIT, seen, "the calibration rows themselves"),
    ]
    labelled = {split for split in (SPLIT, TRAIN) if data.labelled(split)}
    kinds.sort(key=lambda kind: kind[0] not in labelled)
    enough = [kind for kind in kinds if len(kind[1]) >= min(FEWEST, most)]
    split, rows, kind = enough[0] if enough else max(kinds, key=lambda kind: len(kind[1]))
    batches = list(read_rows(network, context, split, rows, spec.batch_size))
    labels = data.labels(split, rows) if split in labelled else None
    metric = learning.objective_metric(context.objective, data.task) if context.objective else context.task.metric
    held = metric if labels is not None or data.task is LearningTask.EMBEDDING else "agreement"
    return GateRows(batches, labels, len(rows), kind, held)
