"""Small networks and data sets at random, of every task, for jobs that nobody foresaw."""

import torch
from torch import nn

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.ELU, nn.LeakyReLU,
    nn.PReLU, nn.Softplus, nn.Mish, nn.Identity,
)  # fmt: skip


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Gate(nn.Module):
    """Cut the channels in two, of which one gates the other."""

    def forward(self, x):
        value, gate = x.chunk(2, 1)
        return value * gate.sigmoid()


class Beside(nn.Module):
    """Put what two branches make beside each other."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], 1)


class Squeeze(nn.Module):
    """Weigh channels by what all of them are on average (Hu 2018)."""

    def __init__(self, width, hidden):
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        weights = self.up(torch.relu(self.down(x.mean((2, 3))))).sigmoid()
        return x * weights[:, :, None, None]


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask=None):
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask.bool()[:, None, None, :]
        y = nn.functional.scaled_dot_product_attention(*parts.unbind(0), attn_mask=seen)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Encoder(nn.Module):
    def __init__(self, width, heads, hidden, activation):
        super().__init__()
        self.attention, self.norm1, self.norm2 = Attention(width, heads), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation(), nn.Linear(hidden, width))

    def forward(self, x, mask=None):
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Text(nn.Module):
    """Numbers of words, (batch, length), to logits of a row or of each position."""

    def __init__(self, rng, words, length, outputs, by_position):
        super().__init__()
        heads = rng.choice((1, 2, 4))
        width = heads * rng.choice((2, 4, 8))
        self.words, self.places = nn.Embedding(words, width), nn.Parameter(torch.randn(length, width) * 0.1)
        self.layers = nn.ModuleList(
            Encoder(width, heads, rng.choice(WIDTHS), rng.choice((nn.GELU, nn.ReLU))) for _ in range(rng.randint(0, 2))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs, bias=rng.random() < 0.7)
        self.by_position = by_position
        if by_position and outputs == words and rng.random() < 0.5 and self.head.bias is None:
            self.head.weight = self.words.weight

    def forward(self, ids, mask=None):
        x = self.words(ids) + self.places
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        return self.head(x if self.by_position else x.mean(1))


class Two(nn.Module):
    """A table and a number of a kind, each by a layer of its own, then both together."""

    def __init__(self, rng, kinds, fields, outputs):
        super().__init__()
        width, other = rng.choice(WIDTHS), rng.choice(WIDTHS)
        self.table, self.kinds = nn.Linear(fields, width), nn.Embedding(kinds, other)
        self.body = table_layers(rng, width + other)
        self.head = nn.Linear(self.body.width, outputs)

    def forward(self, table, kind):
        return self.head(self.body(torch.cat([self.table(table), self.kinds(kind)], 1)))


class Several(nn.Module):
    """Give more than was asked for."""

    def __init__(self, inner, form):
        super().__init__()
        self.inner, self.form = inner, form

    def forward(self, *given):
        found = self.inner(*given)
        return {"logits": found, "sum": found.sum(1)} if self.form == "dict" else (found, found.mean(1))


def norm_of(rng, width, dimensions):
    batch = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[dimensions]
    groups = rng.choice([it for it in (1, 2, 3, 4, width) if width % it == 0])
    made = [lambda: batch(width), lambda: nn.GroupNorm(groups, width), nn.Identity]
    return rng.choice(made if dimensions else [made[0], lambda: nn.LayerNorm(width), nn.Identity])()


def table_layers(rng, width):
    """Make layers over (batch, width) of any kind; ``width`` of what is given is theirs."""
    layers = []
    for _ in range(rng.randint(0, 4)):
        kind, wide = rng.choice(("linear", "linear", "residual", "gate", "beside", "dropout")), rng.choice(WIDTHS)
        act = rng.choice(ACTIVATIONS)
        if kind == "residual":
            layers.append(Residual(nn.Sequential(nn.Linear(width, wide), act(), nn.Linear(wide, width))))
            continue
        if kind == "dropout":
            layers.append(nn.Dropout(0.2))
            continue
        if kind == "gate":
            layers += [nn.Linear(width, 2 * wide), Gate()]
        elif kind == "beside":
            layers.append(Beside(nn.Linear(width, wide), nn.Sequential(nn.Linear(width, wide), act())))
            wide *= 2
        else:
            layers += [nn.Linear(width, wide, bias=rng.random() < 0.7), norm_of(rng, wide, 0), act()]
        width = wide
    made = nn.Sequential(*layers)
    made.width = width
    return made


def image_layers(rng, width, dimensions=2):
    """Make layers over (batch, width, length) or (batch, width, height, width) of any kind, sizes as they are."""
    conv = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
    layers = []
    for _ in range(rng.randint(1, 4)):
        kinds = ["conv", "conv", "residual", "depthwise", "grouped", "beside", "pool"]
        kind = rng.choice([*kinds, "squeeze", "transposed", "shuffle"] if dimensions == 2 else kinds)
        wide, act, size = rng.choice(WIDTHS), rng.choice(ACTIVATIONS), rng.choice((1, 3, 5))
        bias = rng.random() < 0.5
        if kind == "pool":
            pool = rng.choice(((nn.MaxPool1d, nn.AvgPool1d), (nn.MaxPool2d, nn.AvgPool2d))[dimensions - 1])
            layers.append(pool(3, 1, 1))
            continue
        if kind == "squeeze":
            layers.append(Squeeze(width, rng.choice(WIDTHS)))
            continue
        if kind == "residual":
            inner = [conv(width, wide, size, padding=size // 2, bias=bias), norm_of(rng, wide, dimensions), act()]
            layers += [Residual(nn.Sequential(*inner, conv(wide, width, 1))), rng.choice(ACTIVATIONS)()]
            continue
        if kind == "depthwise":
            layers += [conv(width, width, size, padding=size // 2, groups=width, bias=bias), conv(width, wide, 1)]
        elif kind == "grouped":
            groups = rng.choice([it for it in (1, 2, 3, 4) if width % it == 0])
            wide *= groups
            layers.append(conv(width, wide, size, padding=size // 2, groups=groups, bias=bias))
        elif kind == "beside":
            layers.append(Beside(conv(width, wide, 1), conv(width, wide, 3, padding=2, dilation=2)))
            wide *= 2
        elif kind == "transposed":
            layers.append(nn.ConvTranspose2d(width, wide, 3, 1, 1))
        elif kind == "shuffle":
            layers += [conv(width, 4 * wide, 3, 2, 1), nn.PixelShuffle(2)]
        else:
            layers.append(conv(width, wide, size, padding=size // 2, bias=bias))
        layers += [norm_of(rng, wide, dimensions), act()]
        width = wide
    made = nn.Sequential(*layers)
    made.width = width
    return made


class Pooled(nn.Module):
    def __init__(self, body, dimensions):
        super().__init__()
        self.body, self.dimensions = body, dimensions

    def forward(self, x):
        return self.body(x).mean(tuple(range(2, 2 + self.dimensions)))


class Column(nn.Module):
    """Give one number a row without a dimension of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *given):
        return self.inner(*given)[:, 0]


def names(module):
    return [name for name, _ in module.named_modules() if name]
