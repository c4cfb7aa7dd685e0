"""Small networks and digits for tests of what quantization writes."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.export import Dim, export
from torch.nn import functional as F

from workers.compression.datasets import Dataset, Split
from workers.compression.lifting import lift
from workers.compression.network import Network
from workers.compression.step import Context

torch.set_num_threads(1)


class Residual(nn.Module):
    """A residual block between a stem and a classifier, with the norms of a trained network."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        x = F.relu(y + self.shortcut(x))
        return self.classifier(self.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class Mobile(nn.Module):
    """Each operator with an integer kernel once: depthwise, gate, concatenation, all poolings, two linear layers."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(1, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.project = nn.Conv2d(24, 12, 1)
        self.hidden, self.classifier = nn.Linear(24, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.max_pool2d(self.project(x * gate), 2)
        x = F.avg_pool2d(torch.cat([x, x], 1), 2).mean((2, 3))
        return self.classifier(F.relu(self.hidden(x)))


def make_network(module, shape, *, batch=None, dtype=torch.float32):
    """Lift a module as an upload would be, with a dynamic batch unless ``batch`` fixes it."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
    shapes = ({0: Dim("batch")},) if batch is None else None
    return lift(export(module.eval(), (torch.zeros(batch or 2, *shape, dtype=dtype),), dynamic_shapes=shapes))


def digits():
    """1,797 real digits of 8×8, from 0 to 1."""
    return (load_digits().images[:, None] / 16).astype(np.float32)


def make_context(network: Network, rows, folder: Path, *, labels=None, objective=None, dtype="float32") -> Context:
    data = Dataset({"calibration": Split((rows,), labels, np.arange(len(rows)))}, (getattr(torch, dtype),))
    return Context(network, data, 0, torch.device("cpu"), lambda _: None, folder, objective=objective)
