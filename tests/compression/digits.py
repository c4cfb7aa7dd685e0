"""A small trained network and the data it was trained on, as a user would upload them."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN_ROWS = 1437


class DigitsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Read all 1,797 digits in a fixed mixed order: (rows, 1, 8, 8) from 0 to 1, and labels."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order].reshape(-1, 1, 8, 8) / 16).astype(np.float32), y[order].astype(np.int64)


def write_digits(path: Path, **replaced: np.ndarray) -> None:
    x, y = digits()
    arrays = {
        "train.x": x[:TRAIN_ROWS],
        "train.y": y[:TRAIN_ROWS],
        "validation.x": x[TRAIN_ROWS:],
        "validation.y": y[TRAIN_ROWS:],
    }
    np.savez(path, **(arrays | replaced))


def write_network(path: Path, epochs: int, batch: int | None = None) -> None:
    """Train on the digits for some epochs and export, with a dynamic batch or a fixed one."""
    x, y = (torch.from_numpy(array[:TRAIN_ROWS]) for array in digits())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DigitsNet()
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(TRAIN_ROWS).split(64):
                loss = F.cross_entropy(net(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    torch.export.save(torch.export.export(net.eval(), (x[: batch or 2],), dynamic_shapes=shapes), path)
