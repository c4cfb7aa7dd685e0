"""Reference network F on Fashion-MNIST, trained once and cached outside git.

``python -m benchmarks.reference`` trains it (a checkpoint an epoch, so that it can be cut off)
and prints its accuracy on the 10,000 validation rows; ``--bf16`` trains in bfloat16, at nearly twice
the speed where the processor multiplies it. The images come from Debian's package ``dataset-fashion-mnist``.
"""

import gzip
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "winnow"
_TRAINED = CACHE / "network-f.pt"
EPOCHS = 10
BATCH = 128
MEAN, STD = 0.2860, 0.3530


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He 2016), projected where the shape changes."""

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


class ResNet(nn.Module):
    """A stem that gives 64 channels, and two blocks for each width; every width but the first halves the image."""

    def __init__(self, stem: nn.Sequential, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.stem = stem
        stages, before = [], 64
        for place, width in enumerate(widths):
            stages += [BasicBlock(before, width, 2 if place else 1), BasicBlock(width, width, 1)]
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pool(self.stages(self.stem(x))).flatten(1))
        return out


class NetworkF(ResNet):
    """About 2.8 M parameters and 80 M MACs; input (batch, 1, 28, 28), ten classes."""

    def __init__(self) -> None:
        stem = nn.Sequential(nn.Conv2d(1, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        super().__init__(stem, (64, 128, 256), 10)


def _idx(path: Path, header: int) -> NDArray[np.uint8]:
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


def fashion_mnist(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read ``train`` (60,000 rows) or ``t10k`` (10,000): normalized (n, 1, 28, 28) and labels."""
    images = _idx(IMAGES / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    labels = _idx(IMAGES / f"{split}-labels-idx1-ubyte.gz", 8).astype(np.int64)
    return ((images / np.float32(255) - MEAN) / STD).astype(np.float32), labels


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the rows and shift each by up to two pixels (a padded crop)."""
    rows = len(x)
    flipped = torch.where(torch.rand(rows, 1, 1, 1, generator=generator) < 0.5, x, x.flip(3))
    padded = F.pad(flipped, (2, 2, 2, 2), value=-MEAN / STD)
    shift = torch.randint(0, 5, (2, rows), generator=generator)
    down = shift[0, :, None] + torch.arange(28)
    right = shift[1, :, None] + torch.arange(28)
    return padded[torch.arange(rows)[:, None, None], 0, down[:, :, None], right[:, None, :]].unsqueeze(1)


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    hits = sum(int((network(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    return hits / len(y)


def train_network_f(path: Path, *, bf16: bool = False) -> NetworkF:
    """Train with SGD and a one-cycle rate, continuing from the last whole epoch found at ``path``."""
    torch.manual_seed(0)
    network = NetworkF()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
    x, y = (torch.from_numpy(part) for part in fashion_mnist("train"))
    held_x, held_y = (torch.from_numpy(part) for part in fashion_mnist("t10k"))
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps, pct_start=0.25)
    start = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        start = saved["epoch"]
    for epoch in range(start, EPOCHS):
        generator = torch.Generator().manual_seed(epoch)
        network.train()
        order = torch.randperm(len(x), generator=generator)[: steps // EPOCHS * BATCH]
        for rows in order.split(BATCH):
            batch = augment(x[rows], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(network(batch), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        state = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)
        print(f"epoch {epoch + 1}/{EPOCHS}: accuracy {accuracy(network, held_x, held_y):.4f}", flush=True)
    return network.eval()


def network_f(*, bf16: bool = False) -> NetworkF:
    """Give network F from the cache, training it first where it is not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return train_network_f(_TRAINED, bf16=bf16)


def read_network_f() -> tuple[NetworkF, int]:
    """Give network F as it stands in the cache, and after how many epochs; train and write nothing."""
    if not _TRAINED.exists():
        sys.exit(f"{_TRAINED} is not there: python -m benchmarks.reference trains network F")
    saved = torch.load(_TRAINED, weights_only=True)
    network = NetworkF()
    network.load_state_dict(saved["network"])
    return network.eval(), int(saved["epoch"])


if __name__ == "__main__":
    held_x, held_y = (torch.from_numpy(part) for part in fashion_mnist("t10k"))
    network = network_f(bf16="--bf16" in sys.argv)
    print(f"network F: accuracy {accuracy(network, held_x, held_y):.4f} on {len(held_y)} rows")
