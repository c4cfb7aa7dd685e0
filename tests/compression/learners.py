"""One small network for each task and rows that it learns from, as a user would upload them."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from torch import nn

from app.domain.learning_task import LearningTask
from tests.compression.digits import digits
from workers.compression.datasets import load_dataset
from workers.compression.formats import pt2
from workers.compression.step import Context
from workers.compression.tasks import TASKS

POSITIONS, WORDS = 12, 20


class Table(nn.Module):
    """Ten numbers of a patient in, how far the disease came within a year out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.layers(x)


class Picture(nn.Module):
    """Pictures of two digits side by side in; ``width`` numbers out."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.fc = nn.Linear(32 * 8, width)

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(F.max_pool2d(x, 4).flatten(1))


class Reader(nn.Module):
    """A transformer layer over words whose filling is hidden by a mask; ``width`` logits a position out."""

    def __init__(self, width, *, causal):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 32), nn.Parameter(torch.randn(1, POSITIONS, 32) * 0.1)
        self.norm1, self.qkv, self.proj = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm2, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, width)
        seen = torch.ones(POSITIONS, POSITIONS)
        self.register_buffer("seen", seen.tril() if causal else seen)

    def forward(self, input_ids, attention_mask):
        x = self.words(input_ids) + self.places
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        hidden = 1 - attention_mask[:, None, None, :].float() * self.seen
        y = (q @ k.mT * 8**-0.5 - 1e4 * hidden).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, c))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x)


def patients():
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / x.std()).astype(np.float32), ((y[order] - y.mean()) / y.std()).astype(np.float32)
    return split({"x": x, "y": y}, 342)


def pairs():
    """Put digits side by side; which of the ten stand in a picture is known."""
    x, y = digits()
    left, right = np.random.default_rng(1).integers(len(x), size=(2, 1200))
    pictures = np.concatenate([x[left], x[right]], axis=3)
    return split({"x": pictures, "y": np.eye(10, dtype=bool)[y[left]] | np.eye(10, dtype=bool)[y[right]]}, 900)


def sentences():
    """Count up from a word to the next, two by two from odd ones; the mask hides what follows an end."""
    generator = np.random.default_rng(2)
    start, step = generator.integers(WORDS, size=(600, 1)), generator.integers(1, 3, size=(600, 1))
    words = ((start + step * np.arange(POSITIONS)) % WORDS).astype(np.int64)
    mask = (np.arange(POSITIONS) < generator.integers(5, POSITIONS + 1, size=(600, 1))).astype(np.int64)
    return words, mask


def tagged():
    """Tag each word by thirds of the vocabulary, from the word before it and itself; some positions are ignored."""
    words, mask = sentences()
    tags = (words + np.roll(words, 1, axis=1)) // 14
    tags[:, 0] = -100
    return split({"input_ids": words, "attention_mask": mask, "y": tags}, 450)


def text():
    words, mask = sentences()
    return split({"input_ids": words, "attention_mask": mask}, 450)


class Inker(nn.Module):
    """A digit in; for each pixel logits of the ten digits, of which the ink is one, and of the paper out."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 24, 5, padding=2, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 32, 5, padding=2, bias=False), nn.BatchNorm2d(32)
        self.head = nn.Conv2d(32, 11, 3, padding=1)

    def forward(self, x):
        return self.head(F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))


def inked():
    """Label each pixel with ink by the digit that it is part of, and the others as paper; the edge is ignored."""
    x, y = digits()
    labels = np.where(x[:, 0] > 0.4, y[:, None, None], 10).astype(np.int64)
    labels[:, 0] = -100
    return split({"x": x[:900], "y": labels[:900]}, 700)


def split(fields, count):
    train = {f"train.{name}": values[:count] for name, values in fields.items()}
    return train | {f"validation.{name}": values[count:] for name, values in fields.items()}


LEARNERS = {
    LearningTask.REGRESSION: (Table, patients),
    LearningTask.MULTILABEL: (lambda: Picture(10), pairs),
    LearningTask.EMBEDDING: (lambda: Picture(24), lambda: {k: v for k, v in pairs().items() if not k.endswith(".y")}),
    LearningTask.TOKEN_CLASSIFICATION: (lambda: Reader(3, causal=False), tagged),
    LearningTask.LANGUAGE_MODELLING: (lambda: Reader(WORDS, causal=True), text),
    LearningTask.SEGMENTATION: (Inker, inked),
}
LOSSES = {
    LearningTask.REGRESSION: lambda output, y: F.mse_loss(output[:, 0], y),
    LearningTask.MULTILABEL: lambda output, y: F.binary_cross_entropy_with_logits(output, y.float()),
    LearningTask.EMBEDDING: lambda output, y: F.binary_cross_entropy_with_logits(output[:, :10], y.float()),
    LearningTask.TOKEN_CLASSIFICATION: lambda output, y: F.cross_entropy(output.mT, y),
    LearningTask.LANGUAGE_MODELLING: lambda output, y: F.cross_entropy(output[:, :-1].mT, y[:, 1:]),
    LearningTask.SEGMENTATION: F.cross_entropy,
}


def write(task, folder, epochs=12):
    """Train the task's network for some epochs and write both files."""
    make, rows = LEARNERS[task]
    content = rows()
    np.savez(folder / "data.npz", **content)
    inputs = [torch.from_numpy(v) for k, v in content.items() if k.startswith("train.") and not k.endswith(".y")]
    taught = pairs() if task is LearningTask.EMBEDDING else content
    labels = torch.from_numpy(taught["train.y"]) if "train.y" in taught else inputs[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make()
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
        for _ in range(epochs):
            for picked in torch.randperm(len(labels)).split(32):
                loss = LOSSES[task](net(*(value[picked] for value in inputs)), labels[picked])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    example = tuple(value[:2] for value in inputs)
    torch.export.save(torch.export.export(net.eval(), example, dynamic_shapes=shapes), folder / "model.pt2")


def learner(task, folder, epochs=12):
    """Give the network and its data as a job has them."""
    write(task, folder, epochs)
    network = pt2.load(folder / "model.pt2")
    asked = task if task is LearningTask.LANGUAGE_MODELLING else None
    return network, load_dataset(folder / "data.npz", "npz", network.signature, seed=0, task=asked)


def make_contexts(factory, epochs):
    """Give what the steps of a job of each task work with, its network trained for some epochs."""
    made = {}
    for task in LEARNERS:
        folder = factory.mktemp(task)
        network, data = learner(task, folder, epochs)
        made[task] = Context(network, data, 0, torch.device("cpu"), lambda _: None, folder, TASKS[task])
    return made
