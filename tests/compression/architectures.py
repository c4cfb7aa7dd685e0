"""Well-known architectures in small, and parts of networks that couple channels in a way of their own."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.compression.networks import Block, conv


class ConvNeXtBlock(nn.Module):
    """Depthwise, then two linear layers on channels that stand last, then a scale for each channel (Liu 2022)."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.first, self.down, self.last = ConvNeXtBlock(8), nn.Conv2d(8, 12, 2, 2), ConvNeXtBlock(12)
        self.norm, self.fc = nn.LayerNorm(12), nn.Linear(12, 10)

    def forward(self, x):
        x = self.last(self.down(self.first(self.stem(x))))
        return self.fc(self.norm(x.mean((-2, -1))))


class Inception(nn.Module):
    """Four branches side by side, twice (Szegedy 2015)."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.blocks = nn.ModuleList(self._branches(entering) for entering in (8, 22))
        self.fc = nn.Linear(22, 10)

    @staticmethod
    def _branches(entering):
        return nn.ModuleList([
            conv(entering, 6, 1),
            nn.Sequential(conv(entering, 4, 1), nn.ReLU(), conv(4, 8)),
            nn.Sequential(conv(entering, 3, 1), nn.ReLU(), conv(3, 4, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(entering, 4, 1)),
        ])  # fmt: skip

    def forward(self, x):
        x = F.relu(self.stem(x))
        for branches in self.blocks:
            x = F.relu(torch.cat([branch(x) for branch in branches], dim=1))
        return self.fc(x.mean((2, 3)))


class LiteBlock(nn.Module):
    """An inverted residual without squeeze-and-excitation, under ReLU6 (EfficientNet-Lite)."""

    def __init__(self, entering, leaving, size, stride):
        super().__init__()
        wide = 6 * entering
        self.expand, self.depthwise = conv(entering, wide, 1), conv(wide, wide, size, stride, groups=wide)
        self.project = conv(wide, leaving, 1)
        self.shortcut = stride == 1 and entering == leaving

    def forward(self, x):
        y = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8, 3, 2)
        self.blocks = nn.Sequential(LiteBlock(8, 12, 3, 2), LiteBlock(12, 12, 5, 1), LiteBlock(12, 16, 5, 1))
        self.head = conv(16, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ResNeXt(nn.Module):
    """Bottlenecks around a grouped convolution (Xie 2017)."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 16)
        self.narrow = nn.ModuleList(conv(16, 24, 1) for _ in range(2))
        self.grouped = nn.ModuleList(conv(24, 24, groups=4) for _ in range(2))
        self.widen = nn.ModuleList(conv(24, 16, 1) for _ in range(2))
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for narrow, grouped, widen in zip(self.narrow, self.grouped, self.widen, strict=True):
            x = F.relu(x + widen(F.relu(grouped(F.relu(narrow(x))))))
        return self.fc(x.mean((2, 3)))


class Autoencoder(nn.Module):
    """Transposed convolutions: plain, grouped and depthwise, each behind the other."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(conv(3, 8, 3, 2), nn.ReLU(), conv(8, 16, 3, 2), nn.ReLU())
        self.plain = nn.ConvTranspose2d(16, 12, 2, 2)
        self.grouped = nn.ConvTranspose2d(12, 8, 3, padding=1, groups=2)
        self.depthwise = nn.ConvTranspose2d(8, 8, 2, 2, groups=8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = F.relu(self.grouped(F.relu(self.plain(self.down(x)))))
        return torch.sigmoid(self.head(F.elu(self.depthwise(x))))


class SuperResolution(nn.Module):
    """Sub-pixel convolution twice (Shi 2016); the last one's channels are the output."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 12, 5, padding=2), nn.PReLU(12))
        self.inner, self.middle = nn.Conv2d(12, 24, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x):
        x = F.relu(F.pixel_shuffle(self.inner(self.features(x)), 2))
        return F.pixel_shuffle(self.outer(F.relu(self.middle(x))), 2)


class Towers(nn.Module):
    """An image and a vector come in; classes and a map go out."""

    def __init__(self):
        super().__init__()
        self.image = Block(3, 12, 1, "B")
        self.vector = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12))
        self.gate, self.map = nn.Linear(12, 12), nn.Conv2d(12, 2, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, image, vector):
        x, y = self.image(image), self.vector(vector)
        x = x * torch.sigmoid(self.gate(y))[:, :, None, None]
        return self.fc(torch.cat([x.mean((2, 3)), y], dim=1)), self.map(x)


class Shuffled(nn.Module):
    """Grouped pointwise convolutions with a channel shuffle in between (Zhang 2018)."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 12)
        self.first, self.shuffle, self.last = conv(12, 36, 1, groups=3), nn.ChannelShuffle(3), conv(36, 12, 1, groups=3)
        self.fc = nn.Linear(12 * 16, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.last(self.shuffle(F.relu(self.first(x)))))
        return self.fc(torch.flatten(F.max_pool2d(x, 2), 1))


class GroupNormed(nn.Module):
    """Group norm works across the channels before it; those behind it are free."""

    def __init__(self):
        super().__init__()
        self.normed, self.norm = nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12)
        self.free, self.head = nn.Conv2d(12, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(F.silu(self.free(F.silu(self.norm(self.normed(x)))))).amax((2, 3))


class WaveNet(nn.Module):
    """Dilated 1-D convolutions with gates, residuals and skips."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 1)
        self.gated = nn.ModuleList(nn.Conv1d(8, 24, 3, padding=2**place, dilation=2**place) for place in range(2))
        self.residual = nn.ModuleList(nn.Conv1d(12, 8, 1) for _ in range(2))
        self.skip = nn.ModuleList(nn.Conv1d(12, 10, 1) for _ in range(2))
        self.fc = nn.Linear(10, 6)

    def forward(self, x):
        x, skips = self.stem(x), 0
        for gated, residual, skip in zip(self.gated, self.residual, self.skip, strict=True):
            value, gate = gated(x).chunk(2, dim=1)
            y = torch.tanh(value) * torch.sigmoid(gate)
            x, skips = x + residual(y), skips + skip(y)
        return self.fc(F.relu(skips).mean(-1))


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class LlamaBlock(nn.Module):
    """Rotary positions, grouped queries and a gated feed-forward; ``fused`` leaves the grouping to the operator."""

    def __init__(self, fused, width=24, heads=6, kv_heads=3, size=8):
        super().__init__()
        self.heads, self.kv_heads, self.size, self.fused = heads, kv_heads, size, fused
        self.attention_norm, self.feed_norm = RMSNorm(width), RMSNorm(width)
        self.q, self.o = nn.Linear(width, heads * size, bias=False), nn.Linear(heads * size, width, bias=False)
        self.k, self.v = (nn.Linear(width, kv_heads * size, bias=False) for _ in range(2))
        self.gate, self.up = nn.Linear(width, 40, bias=False), nn.Linear(width, 40, bias=False)
        self.down = nn.Linear(40, width, bias=False)
        self.register_buffer("frequencies", 1e4 ** (-torch.arange(0, size, 2) / size), persistent=False)

    def rotate(self, x):
        angles = torch.outer(torch.arange(x.shape[2], dtype=torch.float32), self.frequencies)
        cos, sin = (part.repeat(1, 2) for part in (angles.cos(), angles.sin()))
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-right, left], dim=-1) * sin

    def forward(self, x):
        b, n, _ = x.shape
        y = self.attention_norm(x)
        q = self.rotate(self.q(y).view(b, n, self.heads, self.size).transpose(1, 2))
        k = self.rotate(self.k(y).view(b, n, self.kv_heads, self.size).transpose(1, 2))
        v = self.v(y).view(b, n, self.kv_heads, self.size).transpose(1, 2)
        if not self.fused:
            k, v = (part.repeat_interleave(self.heads // self.kv_heads, dim=1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.fused)
        x = x + self.o(y.transpose(1, 2).reshape(b, n, self.heads * self.size))
        y = self.feed_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Encoder(nn.Module):
    """The encoder layer that comes with torch: one weight makes queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.layer(x).mean(1))


class Recurrent(nn.Module):
    """An LSTM, which no rule covers, between layers of which one never meets it."""

    def __init__(self):
        super().__init__()
        self.before, self.lstm = nn.Conv1d(3, 6, 3), nn.LSTM(6, 8, batch_first=True)
        self.after, self.fc = nn.Linear(8, 12), nn.Linear(12, 10)

    def forward(self, x):
        y, _ = self.lstm(self.before(x).transpose(1, 2))
        return self.fc(F.relu(self.after(y[:, -1])))
