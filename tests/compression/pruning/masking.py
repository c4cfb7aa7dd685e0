"""What pruning is held against: a network that computes all its channels and listens to some no more."""

import numpy as np
import torch

from workers.compression.pruning.selection import Share, choose, line


def masked(network, groups, units):
    """Zero what every weight reads from the channels of these units."""
    deaf = network.clone()
    dead = torch.from_numpy(np.isin(groups.labels, units))
    for (name, axis), ids in groups.walk.dimensions.items():
        owner, _, leaf = name.rpartition(".")
        tensor = getattr(deaf.module.get_submodule(owner), leaf)
        if tensor.dim() > 1 and groups.walk.producers.get(name) != axis:
            tensor.data.index_fill_(axis, dead[ids].nonzero().flatten(), 0)
    return deaf


def some(groups, amount, seed=0):
    """Draw this share of the units, such that no dimension is emptied."""
    scores = np.random.default_rng(seed).random(len(groups.units))
    share = Share(groups.units[np.argsort(scores)], round(amount * len(groups.units)))
    return choose([share], [line(labels, 1) for labels in groups.lines])[0]
