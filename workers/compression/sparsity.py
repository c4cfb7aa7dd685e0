"""Zeros that pruning made stay zeros, whatever trains later."""

from __future__ import annotations

import torch


def keep_zeros(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Set weights that are zero now to zero again after every step, unless the whole tensor is.

    Trained weights are hardly ever exactly zero, so the zeros themselves are the mask: they outlast
    files, checkpoints and recipes, also in a network that came pruned. Biases and norms are left alone.
    """
    tensors = [value for group in optimizer.param_groups for value in group["params"] if value.ndim > 1]
    masks = [(value, value.detach() == 0) for value in tensors]
    pruned = [(value, mask) for value, mask in masks if bool(mask.any()) and not bool(mask.all())]

    def apply(*_: object) -> None:
        with torch.no_grad():
            for value, mask in pruned:
                value.masked_fill_(mask, 0)

    if pruned:
        optimizer.register_step_post_hook(apply)
    return optimizer
