"""Short trainings of the digits network, and how far two networks are apart."""

import torch
from torch import nn

from app.domain.steps.training import FinetuneSpec


def spec(**given):
    return FinetuneSpec(method="finetune", **({"epochs": 2} | given))


def same(one, other):
    state = other.module.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.module.state_dict().items())


def distance(one, other):
    """Give the norm of the difference of all trained weights."""
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return float(torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm())


def without_noise(module):
    """Exchange batch norms for what they do at rest, and leave dropout out, so that rows stand alone."""
    for name, layer in list(module.named_children()):
        if isinstance(layer, nn.BatchNorm2d):
            setattr(module, name, Affine(layer))
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module


class Affine(nn.Module):
    def __init__(self, norm):
        super().__init__()
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.weight = nn.Parameter(scale.detach().clone())
        self.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach().clone())

    def forward(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]
