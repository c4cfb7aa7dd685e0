"""The exponential moving average of a network's weights."""

from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """A module's state averaged over updates: θ̄ ← d·θ̄ + (1 − d)·θ with d = min(decay, (1 + t) / (10 + t)).

    Polyak and Juditsky 1992 average evenly; the exponential form with a decay that grows as updates are few is
    TensorFlow's ``ExponentialMovingAverage``. Running statistics are averaged like weights; whole numbers and
    flags are taken over as they are.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Take in the weights after an update."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averaged, current = [], []
        for name, value in module.state_dict().items():
            mine = self.values[name]
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(value)
            else:
                mine.copy_(value)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def state(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a state. Raises KeyError where it is of another module."""
        values: dict[str, Tensor] = state["values"]
        self.values = {name: values[name].to(device) for name in self.values}
        self.updates = int(state["updates"])
