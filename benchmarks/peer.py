"""Torch-Pruning's own magnitude pruner, called directly and driven to a ratio of MACs."""

import copy

import torch
import torch_pruning as tp
from torch import nn

from benchmarks.recovery import as_network
from benchmarks.reference import NetworkF
from workers.compression.counting import count_macs
from workers.compression.network import Network

_TRIALS, _CLOSE_ENOUGH = 16, 0.005


def prune_by_peer(network: NetworkF, macs_ratio: float, *, scope: str) -> Network:
    """Prune a copy to the nearest ratio that halving the interval of its pruning ratio finds.

    Its parameters are its defaults (group magnitude, p = 2, mean over the group, normalized by the mean);
    ``scope`` is global or layer. The classifier's outputs stay, as it would cut them otherwise.
    """
    whole = count_macs(as_network(network))
    best, nearest = as_network(network), macs_ratio - 1
    low, high = 0.0, 1.0
    for _ in range(_TRIALS):
        share = (low + high) / 2
        found = as_network(_pruned(network, share, scope=scope))
        miss = macs_ratio * count_macs(found) / whole - 1
        if abs(miss) < abs(nearest):
            best, nearest = found, miss
        if abs(miss) <= _CLOSE_ENOUGH:
            break
        low, high = (share, high) if miss > 0 else (low, share)
    return best


def _pruned(network: NetworkF, share: float, *, scope: str) -> nn.Module:
    pruned = copy.deepcopy(network).requires_grad_(requires_grad=True)
    pruner = tp.pruner.MagnitudePruner(
        pruned,
        torch.randn(1, 1, 28, 28),
        importance=tp.importance.MagnitudeImportance(),
        global_pruning=scope == "global",
        pruning_ratio=share,
        ignored_layers=[pruned.fc],
    )
    pruner.step()
    return pruned.requires_grad_(requires_grad=False)
