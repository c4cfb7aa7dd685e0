"""How much of what static int8 loses comes back by training with the rounding.

``python -m benchmarks.rounding``. The network is made to lose: depthwise convolutions whose channels have been scaled
apart by up to 100 and scaled back behind the activation. In float that is the same function (Nagel 2019, section 4.1,
read backwards); with one scale a tensor, most channels are left a few integers each. Parts that are made are kept.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.domain.steps.quantize import QuantizeSpec
from benchmarks.quantization import FOLDER, predict
from benchmarks.reference import fashion_mnist
from benchmarks.subjects import CALIBRATION_ROWS, lifted
from workers.compression.datasets import Dataset, Split
from workers.compression.formats import onnx as onnx_format
from workers.compression.quantization import quantize
from workers.compression.step import Context

WIDTH, STRIDES = 24, (1, 2, 1)
SPREAD = 2.0
"""Largest factor of a channel, as a power of ten."""
BATCH = 64
TRAIN_ROWS, EPOCHS = 20_000, 2
# SGD takes one rate for weights that the scaling has set 100 apart, and makes things worse.
_LEARNING = {"scheme": "qat", "epochs": 2, "learning_rate": 0.001, "optimizer": "adamw"}
WAYS: dict[str, dict[str, Any]] = {
    "static": {"scheme": "static"},
    "qat": _LEARNING,
    "qat with teacher": _LEARNING | {"teacher": "baseline"},
}


class Separable(nn.Module):
    """A stem and three depthwise-separable convolutions, each with batch norm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
        for stride in STRIDES:
            layers += [
                nn.Conv2d(WIDTH, WIDTH, 3, stride, 1, groups=WIDTH, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(),
            ]
            layers += [nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean((2, 3)))

    @torch.no_grad()
    def scale_apart(self) -> None:
        """Scale the channels behind each batch norm, and the weights that read them back."""
        generator = torch.Generator().manual_seed(0)
        convolutions = [part for part in self.layers if isinstance(part, nn.Conv2d)]
        readers: list[nn.Conv2d | nn.Linear] = [*convolutions[1:], self.fc]
        norms = [part for part in self.layers if isinstance(part, nn.BatchNorm2d)]
        for norm, reader in zip(norms, readers, strict=True):
            factors = 10 ** (torch.rand(WIDTH, generator=generator) * SPREAD)
            norm.weight.mul_(factors)
            norm.bias.mul_(factors)
            depthwise = isinstance(reader, nn.Conv2d) and reader.groups > 1
            shape = [-1 if axis == (0 if depthwise else 1) else 1 for axis in range(reader.weight.ndim)]
            reader.weight.div_(factors.view(shape))


def trained(x: Tensor, y: Tensor, epochs: int) -> Separable:
    """Train by AdamW on a one-cycle rate."""
    torch.manual_seed(0)
    network = Separable()
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * (len(x) // BATCH))
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def print_recovery(train_rows: int = TRAIN_ROWS, epochs: int = EPOCHS) -> None:
    """Print what static int8 loses on the network, and which share of it training brings back."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    x, y = fashion_mnist("train")
    rows, labels = fashion_mnist("t10k")
    x, y = x[: train_rows + CALIBRATION_ROWS], y[: train_rows + CALIBRATION_ROWS]
    weights = FOLDER / f"separable-{train_rows}-{epochs}.pt"
    if not weights.exists():
        torch.save(trained(torch.from_numpy(x), torch.from_numpy(y), epochs).state_dict(), weights)
    module = Separable()
    module.load_state_dict(torch.load(weights, weights_only=True))
    module.scale_apart()
    network = lifted(module, (x,))
    splits = {
        "train": Split((x[:train_rows],), y[:train_rows], np.arange(train_rows)),
        "calibration": Split((x[train_rows:],), y[train_rows:], np.arange(CALIBRATION_ROWS)),
    }
    data = Dataset(splits, (torch.float32,))

    def accuracy(way: str) -> float:
        """Judge the ONNX file on the 10,000 rows."""
        kept = weights.with_name(f"{weights.stem}-{way.replace(' ', '-')}.json")
        if not kept.exists():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                made = network
                if way in WAYS:
                    context = Context(network, data, 0, torch.device("cpu"), lambda _: None, Path(folder))
                    made = quantize.run(network, QuantizeSpec(method="quantize", **WAYS[way]), context).network
                onnx_format.save(made, path)
                kept.write_text(json.dumps(float((predict(path, (rows,)).argmax(1) == labels).mean())))
        return float(json.loads(kept.read_text()))

    whole, lost = accuracy("float"), accuracy("static")
    print(f"{'separable':<20}{'float':<22}{'':17}{whole:9.4f}  accuracy")
    print(f"{'':<20}{'winnow static':<22}{'':17}{lost:9.4f}{whole - lost:9.4f}", flush=True)
    for way in (name for name in WAYS if name != "static"):
        found = accuracy(way)
        share = (found - lost) / max(whole - lost, 1e-9)
        print(f"{'':<20}{f'winnow {way}':<22}{'':17}{found:9.4f}{whole - found:9.4f}  recovers {share:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=TRAIN_ROWS, help="rows to train on")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of the float network")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print_recovery(asked.rows, asked.epochs)


if __name__ == "__main__":
    main()
