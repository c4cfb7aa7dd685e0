"""Two networks that tell no classes apart: numbers of a real table, and labels of which a row may have several.

The table holds 442 patients with diabetes, ten measurements each, and how far the disease came within a year
(Efron et al. 2004), from scikit-learn. The pictures put two of scikit-learn's handwritten digits side by side: pixels
and labels are real, which two stand together is drawn here, and a picture has the labels of both.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional as F

PATIENTS_TO_LEARN = 342
DIGITS_TO_LEARN = 1400
PICTURES, PICTURES_TO_LEARN = 2500, 2000
Array = NDArray[np.generic]
Loss = Callable[[Tensor, Tensor], Tensor]


class PatientsNet(nn.Module):
    """Three linear layers; input (batch, 10), one number out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PicturesNet(nn.Module):
    """Three convolutions of 32, 64 and 64 channels; input (batch, 1, 8, 16), one logit for each digit."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64 * 8, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def save_patients(path: Path) -> None:
    """Write inputs and targets with mean 0 and deviation 1; the last hundred patients judge."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / x.std()).astype(np.float32), ((y[order] - y.mean()) / y.std()).astype(np.float32)
    _save(path, x, y[:, None], PATIENTS_TO_LEARN)


def save_pictures(path: Path) -> None:
    """Write pictures and ten flags each; no digit of a picture that judges stands in one to learn from."""
    x, y = load_digits(return_X_y=True)
    pixels, digits = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32), np.eye(10, dtype=bool)[y]
    order, generator = np.random.default_rng(1).permutation(len(x)), np.random.default_rng(0)
    learn = generator.choice(order[:DIGITS_TO_LEARN], size=(2, PICTURES_TO_LEARN))
    judge = generator.choice(order[DIGITS_TO_LEARN:], size=(2, PICTURES - PICTURES_TO_LEARN))
    left, right = np.concatenate([learn, judge], axis=1)
    pictures = np.concatenate([pixels[left], pixels[right]], axis=3)
    _save(path, pictures, digits[left] | digits[right], PICTURES_TO_LEARN)


def _save(path: Path, x: Array, y: Array, count: int) -> None:
    save_splits(path, x[:count], x[count:], y[:count], y[count:])


def save_splits(path: Path, x: Array, x_judge: Array, y: Array, y_judge: Array) -> None:
    """Write rows to learn from, and rows to judge by."""
    splits = {"train.x": x, "train.y": y, "validation.x": x_judge, "validation.y": y_judge}
    np.savez(path, allow_pickle=False, **splits)


def save_model(make: Callable[[], nn.Module], data: Path, loss: Loss, epochs: int, path: Path) -> None:
    """Make a network, train it on the rows of train and export it with a dynamic batch."""
    # The weights that it begins with are drawn too.
    torch.manual_seed(0)
    network = make()
    with np.load(data) as arrays:
        x, y = torch.from_numpy(arrays["train.x"]), torch.from_numpy(arrays["train.y"]).float()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            value = loss(network(x[rows]), y[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.export.save(torch.export.export(network.eval(), (x[:2],), dynamic_shapes=({0: batch},)), path)


def save_patients_model(data: Path, path: Path) -> None:
    save_model(PatientsNet, data, F.mse_loss, 8, path)


def save_pictures_model(data: Path, path: Path) -> None:
    save_model(PicturesNet, data, F.binary_cross_entropy_with_logits, 10, path)
