"""A network of everything that is stored without convolutions, and what each scheme makes of it."""

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.export import Dim, export

from app.domain.steps.quantize import QuantizeSpec
from workers.compression.datasets import Dataset, Split
from workers.compression.formats import onnx as onnx_format
from workers.compression.formats import pt2
from workers.compression.lifting import lift
from workers.compression.quantization import quantize
from workers.compression.step import Context

WORDS, LENGTH = 60, 5


class Text(nn.Module):
    """Rows whose length no group divides, a product without a layer, one with a sum, and two linear layers alike."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 44)
        self.query, self.key = nn.Linear(44, 70), nn.Linear(44, 70, bias=False)
        self.product = nn.Parameter(torch.randn(70, 48) / 8)
        self.shift, self.mixed = nn.Parameter(torch.randn(48)), nn.Parameter(torch.randn(48, 40) / 7)
        self.added = nn.Parameter(torch.randn(40))
        self.head = nn.Linear(40, 10)

    def forward(self, ids):
        x = self.embedding(ids)
        x = torch.tanh(self.query(x)) * self.key(x)
        x = torch.relu(x.mean(1) @ self.product + self.shift)
        return self.head(torch.addmm(self.added, x, self.mixed))


def make_text():
    torch.manual_seed(0)
    shapes = ({0: Dim("batch")},)
    return lift(export(Text().eval(), (torch.zeros(2, LENGTH, dtype=torch.int64),), dynamic_shapes=shapes))


def text_rows(count=64):
    return np.random.default_rng(0).integers(0, WORDS, (count, LENGTH))


def text_context(network, folder, rows=None, labels=None):
    rows = text_rows() if rows is None else rows
    split = Split((rows,), labels, np.arange(len(rows)))
    data = Dataset({"calibration": split, "train": split}, (torch.int64,))
    return Context(network, data, 0, torch.device("cpu"), lambda _: None, folder)


def spec(scheme, **fields):
    return QuantizeSpec(method="quantize", scheme=scheme, **fields)


def run_onnx(path, rows):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: rows})[0]


def run_torch(network, rows):
    with torch.no_grad():
        return network.module(torch.from_numpy(np.array(rows))).numpy()


def write(network, step, context, folder):
    """Run the step and write both files; give what the step said and the .pt2 loaded anew."""
    result = quantize.run(network, step, context)
    onnx_format.save(result.network, folder / "model.onnx")
    pt2.save(result.network, folder / "model.pt2")
    return result, pt2.load(folder / "model.pt2")


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]
