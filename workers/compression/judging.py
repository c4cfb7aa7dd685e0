"""How well a network in torch does what it learns, on rows of a split."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.learning_task import LearningTask
from workers.compression.inference import BATCH_ROWS, output_batches
from workers.compression.network import Network
from workers.compression.step import Context

Truth = NDArray[Any]


def truth(context: Context, split: str, rows: NDArray[np.int64], reference: tuple[Network, int] | None = None) -> Truth:
    """Give what rows are judged against: their labels or, of embeddings, the vectors that ``reference`` gives for them.

    ``reference`` is a network at rest with the place of its output; None: the uploaded network with its first.
    """
    if context.task.name is not LearningTask.EMBEDDING:
        return context.data.labels(split, rows)
    if reference is None:
        reference = context.baseline.clone(), 0
        reference[0].module.to(context.device).eval()
    network, place = reference
    batches = output_batches(network, context.data, split, rows, context.device, place=place)
    return torch.cat([outputs for _, outputs in batches]).cpu().numpy()


def score(
    network: Network,
    context: Context,
    split: str,
    rows: NDArray[np.int64],
    wanted: Truth,
    batch_rows: int = BATCH_ROWS,
) -> tuple[float, float]:
    """Give the task's headline figure and its loss on rows, ``wanted`` being the truth of each.

    Outputs are judged batch by batch: those of a language model on all rows would fill the memory.
    """
    task, terms, losses, counts = context.task, [], [], []
    figure, done = None, 0
    for picked, outputs in output_batches(network, context.data, split, rows, context.device, batch_rows):
        found, mine = outputs.cpu(), wanted[done : done + len(picked)]
        done += len(picked)
        labels = torch.from_numpy(mine)
        figure = figure or task.figures(tuple(found.shape[1:]))[task.metric]
        terms.append(figure.terms(found.numpy(), mine.reshape(found.shape) if mine.dtype.kind == "f" else mine))
        losses.append(float(task.loss(found, labels)))
        counts.append(len(task.counted(found, labels)[1]))
    assert figure is not None
    loss = float(np.average(losses, weights=counts)) if sum(counts) else 0.0
    return figure.combine(np.sum([part.sum(axis=0) for part in terms], axis=0)).item(), loss
