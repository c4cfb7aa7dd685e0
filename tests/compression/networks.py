"""Small networks, one for each way in which channels can be coupled."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from workers.compression.lifting import lift


def conv(entering, leaving, size=3, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(entering, leaving, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(leaving)
    )


class Block(nn.Module):
    """A basic residual block; ``shortcut`` is a projection, or slices and pads (He 2016, option A)."""

    def __init__(self, entering, leaving, stride, option):
        super().__init__()
        self.conv1, self.conv2 = conv(entering, leaving, 3, stride), conv(leaving, leaving)
        self.padding = (leaving - entering) // 2
        self.stride = stride
        self.down = conv(entering, leaving, 1, stride) if option == "B" and (stride > 1 or self.padding) else None

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x)))
        if self.down is not None:
            x = self.down(x)
        elif self.padding or self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, option="B", widths=(8, 16, 32), depth=1):
        super().__init__()
        self.stem = conv(3, widths[0])
        blocks, entering = [], widths[0]
        for place, width in enumerate(widths):
            for repeat in range(depth):
                blocks.append(Block(entering, width, 2 if place and not repeat else 1, option))
                entering = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(entering, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.stem(x)))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(x.view(x.size(0), -1))


class InvertedResidual(nn.Module):
    def __init__(self, entering, leaving, stride):
        super().__init__()
        wide = entering * 4
        self.expand, self.depthwise = conv(entering, wide, 1), conv(wide, wide, 3, stride, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 8, 1), nn.Conv2d(8, wide, 1)
        self.project = conv(wide, leaving, 1)
        self.shortcut = stride == 1 and entering == leaving

    def forward(self, x):
        y = F.hardswish(self.depthwise(F.hardswish(self.expand(x))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = self.project(y)
        return x + y if self.shortcut else y


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8, 3, 2)
        self.blocks = nn.Sequential(InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2), InvertedResidual(12, 12, 1))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 10))

    def forward(self, x):
        return self.head(self.blocks(F.relu6(self.stem(x))).mean((2, 3)))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * place) for place in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * place, 6, 3, padding=1) for place in range(3))
        self.fc = nn.Linear(26 * 4, 10)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], dim=1)
        return self.fc(torch.flatten(F.avg_pool2d(x, 2), 1))


class ShuffleNet(nn.Module):
    """Half the channels pass by, then both halves are shuffled (Ma 2018)."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 16)
        self.first, self.middle, self.last = conv(8, 12, 1), conv(12, 12, 3, groups=12), conv(12, 8, 1)
        self.out = conv(16, 24, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        left, right = F.relu(self.stem(x)).chunk(2, dim=1)
        right = F.relu(self.last(self.middle(F.relu(self.first(right)))))
        x = torch.cat([left, right], dim=1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.fc(F.relu(self.out(x)).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 16)
        self.grouped, self.last = conv(16, 24, groups=4), conv(24, 12)
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        return self.fc(F.relu(self.last(F.relu(self.grouped(F.relu(self.stem(x)))))).amax((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = conv(3, 8), conv(8, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge, self.head = conv(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down1(x))
        x = F.relu(self.down2(F.max_pool2d(skip, 2)))
        return self.head(F.relu(self.merge(torch.cat([skip, self.up(x)], dim=1))))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


class Series(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, 12, 5, padding=2), nn.BatchNorm1d(12), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(12, 16, 3), nn.ELU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x.flatten(2))


class Attention(nn.Module):
    def __init__(self, width, heads, fused):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.fused = heads, fused

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT * 0.25).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class ViT(nn.Module):
    def __init__(self, fused=True, width=24, heads=4):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, fused)
        self.wide, self.narrow = nn.Linear(width, 40), nn.Linear(40, width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.size(0), -1, -1), x], dim=1) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return self.fc(x[:, 0])


class Rearranged(nn.Module):
    """Splits, slices, gates, pixel shuffle, a loose parameter and a literal view."""

    def __init__(self):
        super().__init__()
        self.stem, self.gates = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.scale = nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        self.up = nn.Conv2d(8, 32, 1)
        self.head = nn.Linear(8 * 4, 10)

    def forward(self, x):
        first, second, third = torch.split(torch.tanh(self.stem(x)), [8, 10, 6], dim=1)
        value, gate = (self.gates(first) * self.scale).chunk(2, dim=1)
        x = value * torch.sigmoid(gate) + torch.cat([second[:, 1:3], third], dim=1)
        x = F.adaptive_avg_pool2d(F.pixel_shuffle(self.up(x), 2), 2)
        return self.head(x.view(-1, 32))


class Odd(nn.Module):
    """One convolution meets an operator that no rule covers; the other does not."""

    def __init__(self):
        super().__init__()
        self.known, self.odd, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        x = self.odd(F.relu(self.known(x)))
        return self.head(torch.renorm(x, 2, 1, 1.0).mean((2, 3)))


ZOO = {
    "resnet": ResNet,
    "resnet_option_a": lambda: ResNet("A", depth=3),
    "mobilenet": MobileNet,
    "densenet": DenseNet,
    "shufflenet": ShuffleNet,
    "grouped": Grouped,
    "unet": UNet,
    "mlp": MLP,
    "series": Series,
    "vit": ViT,
    "vit_matmul": lambda: ViT(fused=False),
    "rearranged": Rearranged,
    "odd": Odd,
}


def export(module, *, dynamic=True, batch=2, train=False):
    """Export with statistics that are not the initial ones, so that batch norm is no identity."""
    torch.manual_seed(0)
    module.train()
    with torch.no_grad():
        for _ in range(2):
            module(torch.randn(8, 3, 8, 8))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    shapes = ({0: Dim("batch")},) if dynamic else None
    return torch.export.export(module.train(train), (torch.randn(batch, 3, 8, 8),), dynamic_shapes=shapes)


@cache
def make(name, **options):
    torch.manual_seed(1)
    return lift(export(ZOO[name](), **options))
