import pytest
import torch
from torch import nn

from tests.compression.quantization.networks import Residual, make_network
from workers.compression.quantization.folding import fold_batch_norms


class Reused(nn.Module):
    """A norm behind a convolution that is called twice, and one before the first: neither can be folded."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(self.conv(self.first(x))))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.linear(x))


def count_norms(module):
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


@pytest.mark.parametrize(
    ("module", "shape", "before", "after"),
    [(Residual(), (1, 8, 8), 3, 0), (Reused(), (4, 5, 5), 2, 2), (Dense(), (6,), 1, 0)],
)
def test_folding_changes_the_graph_and_not_the_outputs(module, shape, before, after):
    network = make_network(module, shape)
    folded = fold_batch_norms(network.module)
    assert (count_norms(network.module), count_norms(folded)) == (before, after)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network.module(x), rtol=1e-4, atol=1e-5)
