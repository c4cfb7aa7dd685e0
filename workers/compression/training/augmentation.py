"""Random changes of rows while a network trains, on whole batches at once and wherever their tensors are.

All of them draw from one generator an epoch, on the CPU and in a fixed order, so that a device changes nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from app.domain.steps.training import Augmentation, TrainingSpec
from workers.compression.training.criterion import Batch, Rows

Generator = np.random.Generator
_CHANGES = 1
"""Tells what is drawn for changes from what :func:`~workers.compression.training.rows.shuffled` draws."""


@dataclass(frozen=True)
class Mixed:
    """A batch with the labels and rows that the rest of each of its inputs comes from, ``share`` being its own part."""

    batch: Batch
    partner: Batch
    share: float


def epoch_generator(seed: int, epoch: int) -> Generator:
    """Give the generator of an epoch's changes: it follows from the epoch, and nothing of it needs to be kept."""
    return np.random.default_rng([seed, epoch, _CHANGES])


def change(batch: Batch, spec: TrainingSpec, generator: Generator) -> Batch | Mixed:
    """Augment and mix a batch as its spec asks; give it as it is where nothing is asked."""
    if spec.augment is not None:
        (images,) = batch.inputs
        batch = replace(batch, inputs=(augment(images, spec.augment, generator),), changed=True)
    return batch if spec.mixup is None else mix(batch, spec.mixup, generator)


def mix(batch: Batch, alpha: float, generator: Generator) -> Mixed:
    """Mix every row with another of its batch: x̃ = λ·x_i + (1 − λ)·x_j with λ from Beta(α, α), one λ a batch.

    Zhang, Cissé, Dauphin and Lopez-Paz 2018, "mixup: Beyond Empirical Risk Minimization". The labels are not
    mixed, the losses are: that is the same for cross-entropy, and works for any loss.
    """
    share = float(generator.beta(alpha, alpha))
    order = generator.permutation(len(batch.rows))
    partners = torch.from_numpy(order).to(batch.labels.device)
    inputs = tuple(torch.lerp(value[partners], value, share) for value in batch.inputs)
    mixed = replace(batch, inputs=inputs, changed=True)
    # Vectors without labels have none to give to a partner.
    labels = batch.labels[partners] if len(batch.labels) else batch.labels
    return Mixed(mixed, replace(mixed, labels=labels, rows=batch.rows[order]), share)


def augment(images: Tensor, asked: Augmentation, generator: Generator) -> Tensor:
    """Flip, crop and blank out images, (rows, channels, height, width), each row by draws of its own."""
    if asked.flip:
        images = flip(images, generator.random(len(images)) < 0.5)
    if asked.crop:
        offsets = generator.integers(0, 2 * asked.crop + 1, (2, len(images)))
        images = crop(images, asked.crop, offsets, asked.fill)
    if asked.cutout:
        centres = generator.random((2, len(images)))
        images = cutout(images, asked.cutout, centres, asked.fill)
    return images


def flip(images: Tensor, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Tensor:
    """Mirror the chosen rows from left to right."""
    picked = torch.from_numpy(chosen).to(images.device)
    return torch.where(picked[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, padding: int, offsets: Rows, fill: float) -> Tensor:
    """Pad every side and cut the old size out, at ``offsets`` (2, rows) from above and from the left.

    He, Zhang, Ren and Sun 2016, "Deep Residual Learning for Image Recognition", section 4.2.
    """
    rows, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4, value=fill)
    down, right = torch.from_numpy(offsets).to(images.device)
    at_row = torch.arange(rows, device=images.device)[:, None, None]
    at_height = (down[:, None] + torch.arange(height, device=images.device))[:, :, None]
    at_width = (right[:, None] + torch.arange(width, device=images.device))[:, None, :]
    # Indices on both sides of a slice come out in front of it.
    return padded[at_row, :, at_height, at_width].movedim(3, 1).contiguous()


def cutout(
    images: Tensor, side: int, centres: np.ndarray[tuple[int, int], np.dtype[np.float64]], fill: float
) -> Tensor:
    """Blank out a square around a pixel, chosen by ``centres`` (2, rows) as shares of height and width.

    DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3: the
    square may reach beyond the border.
    """
    hidden = []
    for share, size in zip(centres, images.shape[2:], strict=True):
        first = torch.from_numpy((share * size).astype(np.int64) - side // 2).to(images.device)[:, None]
        place = torch.arange(size, device=images.device)
        hidden.append((place >= first) & (place < first + side))
    square = hidden[0][:, None, :, None] & hidden[1][:, None, None, :]
    return images.masked_fill(square, fill)
