"""Rounding to eight bits inside a network that trains, in the place of torchao's observers."""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import DerivedObserverOrFakeQuantize, FakeQuantizeBase, ObserverBase

from workers.compression.quantization.quantizer import SMALLEST_SCALE

FOLLOWING = 0.01
"""Share of a batch's range in the running one of an activation."""
_CHANNELS = frozenset({torch.per_channel_symmetric, torch.per_channel_affine})
_SYMMETRIC = frozenset({torch.per_channel_symmetric, torch.per_tensor_symmetric})
_DROPOUT = torch.ops.aten.dropout.default


class TrainedRange(FakeQuantizeBase):  # type: ignore[misc]
    """Rounds to the integers of an observer, whose range it begins with and then lets follow what it sees.

    A weight's range is always that of the weight as it stands; an activation's moves slowly.
    """

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor
    frozen: Tensor

    def __init__(self, observer: ObserverBase) -> None:
        super().__init__()
        self.dtype, self.qscheme = observer.dtype, observer.qscheme
        self.quant_min, self.quant_max = observer.quant_min, observer.quant_max
        self.ch_axis = getattr(observer, "ch_axis", -1)
        self.smallest = float(getattr(observer, "eps", SMALLEST_SCALE))
        scale, zero_point = observer.calculate_qparams()
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero_point.to(torch.int32))
        self.register_buffer("low", (self.quant_min - zero_point) * self.scale)
        self.register_buffer("high", (self.quant_max - zero_point) * self.scale)
        self.register_buffer("frozen", torch.tensor(False))  # noqa: FBT003 - a value, no switch

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.frozen:
            self._follow(x.detach())
        if self.qscheme in _CHANNELS:
            return torch.fake_quantize_per_channel_affine(
                x, self.scale, self.zero_point, self.ch_axis, self.quant_min, self.quant_max
            )
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.quant_min, self.quant_max)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.zero_point

    def _follow(self, x: Tensor) -> None:
        if self.qscheme in _CHANNELS:
            others = [axis for axis in range(x.ndim) if axis != self.ch_axis]
            self.low.copy_(x.amin(others))
            self.high.copy_(x.amax(others))
        else:
            self.low.lerp_(x.amin().reshape(self.low.shape), FOLLOWING)
            self.high.lerp_(x.amax().reshape(self.high.shape), FOLLOWING)
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)
        if self.qscheme in _SYMMETRIC:
            self.scale.copy_(torch.maximum(-low, high) / ((self.quant_max - self.quant_min) / 2))
            self.scale.clamp_(min=self.smallest)
            return
        self.scale.copy_((high - low) / (self.quant_max - self.quant_min)).clamp_(min=self.smallest)
        shift = self.quant_min - torch.round(low / self.scale)
        self.zero_point.copy_(shift.clamp(self.quant_min, self.quant_max))


def round_in_training(observed: GraphModule) -> GraphModule:
    """Give an observed graph in which every observer rounds, and dropout obeys ``train()`` and ``eval()``."""
    observers = {name: part for name, part in observed.named_modules(remove_duplicate=False) if _observes(part)}
    # Observers that are shared, since both sides of an operator have one scale, must stay so.
    ranges = {id(part): TrainedRange(part) for part in observers.values()}
    for name, part in observers.items():
        observed.set_submodule(name, ranges[id(part)])
    for part in observed.modules():
        if isinstance(part, DerivedObserverOrFakeQuantize):
            part.obs_or_fqs = [ranges[id(observer)] for observer in part.obs_or_fqs]
    for node in observed.graph.find_nodes(op="call_function", target=_DROPOUT):
        name = f"{node.name}_trained"
        observed.add_submodule(name, nn.Dropout(node.args[1]))
        node.op, node.target, node.args = "call_module", name, node.args[:1]
    # A plain module: torchao's refuses train() and eval().
    plain = GraphModule(observed, observed.graph)
    plain.meta = observed.meta
    return plain


def drop_dropout(trained: GraphModule) -> GraphModule:
    """Undo what ``round_in_training`` did to dropout: at rest it does nothing."""
    for node in list(trained.graph.nodes):
        if node.op == "call_module" and isinstance(trained.get_submodule(str(node.target)), nn.Dropout):
            probability = trained.get_submodule(str(node.target)).p
            node.op, node.target, node.args = "call_function", _DROPOUT, (node.args[0], probability, False)
    trained.delete_all_unused_submodules()
    trained.recompile()
    return trained


def _observes(part: nn.Module) -> bool:
    return isinstance(part, ObserverBase) and not isinstance(part, DerivedObserverOrFakeQuantize)
