"""Two data sets of real series, from the files that aeon carries, and a network for each.

Covid3Month holds 201 countries: the cases confirmed on each of 84 days, and the death rate on 1 April 2020 (WHO; Tan et
al. 2020). The one tells little of the other: what a network explains of the variance can hardly be told from nothing.
BasicMotions holds 80 recordings of a watch's accelerometer and gyroscope, ten seconds each, of one of four activities.
The labels here are what the activities imply, as :data:`IMPLIED` has it: nobody labelled the recordings so.
"""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tables import save_model, save_splits
from torch import Tensor, nn
from torch.nn import functional as F

IMPLIED = {
    "Standing": (False, False, False),
    "Walking": (True, True, False),
    "Running": (True, True, True),
    "Badminton": (True, False, True),
}
"""Of each activity: whether one moves, whether one gets on, and whether one is soon out of breath."""
WINDOW, STEP = 40, 20

Series = NDArray[np.float32]


class SeriesNet(nn.Module):
    """Two convolutions of 32 and 64 channels over time; input (batch, channels, times), ``outputs`` numbers out."""

    def __init__(self, channels: int, times: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(channels, 32, 7, 2, 3), nn.ReLU(), nn.Conv1d(32, 64, 5, 2, 2), nn.ReLU(), nn.AvgPool1d(10)
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * (times // 4 // 10), 64), nn.ReLU(), nn.Linear(64, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def save_countries(path: Path) -> None:
    """Write logarithms of the cases and death rates with mean 0 and deviation 1; the archive's test rows judge."""
    (x, y), (x_judge, y_judge) = (_read("Covid3Month", part) for part in ("TRAIN", "TEST"))
    rates, judge = np.array(y, np.float32), np.array(y_judge, np.float32)
    centre, scale = rates.mean(), rates.std()
    cases = [np.log1p(values.clip(0)) / 5 for values in (x, x_judge)]
    save_splits(path, *cases, *(((values - centre) / scale)[:, None] for values in (rates, judge)))


def save_motions(path: Path) -> None:
    """Write windows of four seconds, every two, with three flags each; the archive's test recordings judge."""
    parts = [_read("BasicMotions", part) for part in ("TRAIN", "TEST")]
    inputs, labels = [], []
    for x, activities in parts:
        starts = range(0, x.shape[2] - WINDOW + 1, STEP)
        inputs.append(np.concatenate([x[:, :, start : start + WINDOW] for start in starts]) / 10)
        labels.append(np.array([IMPLIED[name] for _ in starts for name in activities]))
    save_splits(path, *inputs, *labels)


def save_countries_model(data: Path, path: Path) -> None:
    save_model(partial(_network, data, 1), data, F.mse_loss, 30, path)


def save_motions_model(data: Path, path: Path) -> None:
    save_model(partial(_network, data, 3), data, F.binary_cross_entropy_with_logits, 60, path)


def _network(data: Path, outputs: int) -> nn.Module:
    with np.load(data) as arrays:
        _, channels, times = arrays["train.x"].shape
    return SeriesNet(channels, times, outputs)


def _read(name: str, part: str) -> tuple[Series, list[str]]:
    """Read a ``.ts`` file: its head, then a row a line, channels and then the label parted by colons."""
    found = importlib.util.find_spec("aeon")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("aeon is not installed: run `make setup`")
    path = Path(found.submodule_search_locations[0], "datasets", "data", name, f"{name}_{part}.ts")
    _, _, body = path.read_text(encoding="utf-8").partition("@data\n")
    rows, labels = [], []
    for line in body.splitlines():
        *channels, label = line.split(":")
        rows.append([[float(value) for value in channel.split(",")] for channel in channels])
        labels.append(label.strip())
    return np.array(rows, np.float32), labels
