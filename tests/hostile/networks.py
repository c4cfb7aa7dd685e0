"""Real exports of varied architectures: what admission must let through, and what the mutations start from."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram


class Residual(nn.Module):
    """Two residual blocks with batch norm, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.shortcut = nn.Conv2d(8, 16, 1, stride=2)
        self.wide = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.body(x)
        x = (self.wide(x) + self.shortcut(x)).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Inverted(nn.Module):
    """A depthwise block with squeeze-and-excitation, as in a MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 16, 1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16, 5)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.depth(nn.functional.relu6(self.expand(x))))
        scale = nn.functional.hardsigmoid(self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()))
        return self.head(self.dropout((x * scale).mean((2, 3))))


class Vision(nn.Module):
    """Patches, a class token, positions and transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.layers(x)[:, 0])


class Text(nn.Module):
    """Embeddings and attention with a causal mask kept as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.register_buffer("mask", torch.full((32, 32), float("-inf")).triu(1))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.embed(tokens)
        length = x.shape[1]
        shape = (x.shape[0], length, 2, 8)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        x = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:length, :length])
        x = self.norm(x.transpose(1, 2).reshape(x.shape[0], length, 16))
        return {"hidden": x, "pooled": x.mean(1)}


class Shuffle(nn.Module):
    """Grouped convolutions, a channel shuffle and concatenated branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        x = nn.functional.interpolate(self.up(nn.functional.silu(x)), scale_factor=2.0)
        return nn.functional.pad(x, (1, 1, 1, 1)).sigmoid()


class Sizes(nn.Module):
    """Arithmetic on dynamic sizes: slices, halves, remainders and comparisons."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 8, 5, stride=2, padding=2), nn.Conv1d(8, 8, 3, stride=3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.max_pool1d(self.first(x), 2, ceil_mode=True)
        half = x.shape[-1] // 2
        even = x[..., : half * 2].view(x.shape[0], x.shape[1], half, 2)
        positions = torch.arange(x.shape[-1] % 7 + 1, dtype=torch.float32)
        return even.amax(-1), self.second(x)[..., : min(half, 4)].mean(-1) + positions.sum()


class Pair(nn.Module):
    """Inputs in a tuple and a dictionary; several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(5, 6)
        self.scale = torch.tensor(2.0)

    def forward(self, pair: tuple[Tensor, Tensor], more: dict[str, Tensor]) -> list[Tensor]:
        joined = self.a(pair[0]) + self.b(pair[1]) * self.scale
        return [joined, torch.where(more["gate"] > 0, joined, -joined), joined.argmax(1)]


class Tied(nn.Module):
    """One weight under two names, a view of another, and half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight
        whole = torch.randn(4, 8)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[1:3].t())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) @ self.part @ self.whole[1:3]
        return self.out(nn.functional.gelu(x))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 10), nn.Softmax(1))


def _export(
    network: nn.Module, *inputs: Any, shapes: Any = None, keywords: dict[str, Any] | None = None, train: bool = False
) -> ExportedProgram:
    network = network if train else network.eval()
    return torch.export.export(network, inputs, kwargs=keywords, dynamic_shapes=shapes)


def _image(batch: int = 2, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(batch, channels, size, size)


_BATCH = Dim("batch", min=1, max=64)

NETWORKS: dict[str, Callable[[], ExportedProgram]] = {
    "residual_fixed": lambda: _export(Residual(), _image()),
    "residual_batch": lambda: _export(Residual(), _image(), shapes=({0: Dim.DYNAMIC},)),
    "residual_train": lambda: _export(Residual(), _image(), shapes=({0: _BATCH},), train=True),
    "residual_size": lambda: _export(Residual(), _image(), shapes=({0: _BATCH, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)),
    "inverted": lambda: _export(Inverted(), _image(), shapes=({0: _BATCH, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)),
    "mlp": lambda: _export(_mlp(), torch.randn(2, 64), shapes=({0: _BATCH},)),
    "mlp_double": lambda: _export(_mlp().double(), torch.randn(2, 64, dtype=torch.float64)),
    "mlp_half": lambda: _export(_mlp().to(torch.bfloat16), torch.randn(2, 64, dtype=torch.bfloat16)),
    "vision": lambda: _export(Vision(), _image(), shapes=({0: _BATCH},)),
    "vision_train": lambda: _export(Vision(), _image(), shapes=({0: Dim.DYNAMIC},), train=True),
    "text": lambda: _export(Text(), torch.randint(50, (2, 7)), shapes=({0: _BATCH, 1: Dim.DYNAMIC},)),
    "encoder": lambda: _export(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, norm_first=True), 1, enable_nested_tensor=False),
        torch.randn(5, 2, 16),
        shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},),
    ),
    "shuffle": lambda: _export(Shuffle(), _image(2, 8), shapes=({0: _BATCH, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)),
    "sizes": lambda: _export(Sizes(), torch.randn(2, 4, 60), shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC},)),
    "pair": lambda: _export(
        Pair(),
        (torch.randn(3, 4), torch.randn(3, 5)),
        {"gate": torch.randn(3, 6)},
        shapes=(({0: _BATCH}, {0: _BATCH}), {"gate": {0: _BATCH}}),
    ),
    "keywords": lambda: _export(
        Pair(),
        keywords={
            "pair": (torch.randn(3, 4), torch.randn(3, 5)),
            "more": collections.OrderedDict(gate=torch.ones(3, 6)),
        },
    ),
    "tied": lambda: _export(Tied(), torch.randint(20, (2, 3)), shapes=({0: _BATCH},)),
    "decomposed": lambda: _export(Residual(), _image(), shapes=({0: _BATCH},)).run_decompositions(),
}


def bert() -> ExportedProgram:
    """A two-layer BERT with its own attention mask, made from a configuration alone."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    tokens = torch.randint(50, (2, 6))
    network = BertModel(config).eval()
    network.config.return_dict = False
    shapes = {"input_ids": {0: _BATCH, 1: Dim.DYNAMIC}, "attention_mask": {0: _BATCH, 1: Dim.DYNAMIC}}
    with torch.no_grad():
        return torch.export.export(
            network, (), kwargs={"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, dynamic_shapes=shapes
        )


def write(folder: Path) -> dict[str, Path]:
    """Export every network into the folder; give the files by name."""
    files = {}
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        files[name] = folder / f"{name}.pt2"
        torch.export.save(make(), files[name])
    return files
