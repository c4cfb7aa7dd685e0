"""A network that gives numbers, of a real table.

The table holds 442 patients with diabetes, ten measurements each, and how far the disease came within a year
(Efron et al. 2004), from scikit-learn.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F

PATIENTS_TO_LEARN = 342
Loss = Callable[[Tensor, Tensor], Tensor]
Array = NDArray[np.generic]


class PatientsNet(nn.Module):
    """Three linear layers; input (batch, 10), one number out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def save_patients(path: Path) -> None:
    """Write inputs and targets with mean 0 and deviation 1; the last hundred patients judge."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / x.std()).astype(np.float32), ((y[order] - y.mean()) / y.std()).astype(np.float32)
    count = PATIENTS_TO_LEARN
    save_splits(path, x[:count], x[count:], y[:count, None], y[count:, None])


def save_splits(path: Path, x: Array, x_judge: Array, y: Array, y_judge: Array) -> None:
    """Write rows to learn from, and rows to judge by."""
    splits = {"train.x": x, "train.y": y, "validation.x": x_judge, "validation.y": y_judge}
    np.savez(path, allow_pickle=False, **splits)


def save_model(network: nn.Module, data: Path, loss: Loss, epochs: int, path: Path) -> None:
    """Train on the rows of train and export with a dynamic batch."""
    torch.manual_seed(0)
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
    save_model(PatientsNet(), data, F.mse_loss, 8, path)
