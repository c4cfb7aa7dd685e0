"""Rounding to eight bits inside a network that trains, in the place of torchao's observers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import DerivedObserverOrFakeQuantize, FakeQuantizeBase, ObserverBase

from workers.compression.quantization import kernels
from workers.compression.quantization.ranges import encode
from workers.compression.quantization.scales import least_scales, weight_scales

FOLLOWING = 0.01
"""Share of a batch's range in the running one of an activation."""
_DROPOUT = torch.ops.aten.dropout.default


class Rounding(FakeQuantizeBase):  # type: ignore[misc]
    """Rounds to the integers of an observer."""

    def __init__(self, observer: ObserverBase) -> None:
        super().__init__()
        self.dtype, self.qscheme = observer.dtype, observer.qscheme
        self.quant_min, self.quant_max = observer.quant_min, observer.quant_max
        self.ch_axis = 0  # torchao asks for it: a weight has its output channels there

    @property
    def per_channel(self) -> bool:
        """Whether each output channel, the first dimension of a weight, has a scale of its own."""
        return self.qscheme == torch.per_channel_symmetric

    def round(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        if self.per_channel:
            return torch.fake_quantize_per_channel_affine(
                x, scale, zero_point, self.ch_axis, self.quant_min, self.quant_max
            )
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, self.quant_min, self.quant_max)


class TrainedRange(Rounding):
    """Begins with an observer's range and then lets it follow what it sees.

    A weight's range is always that of the weight as it stands; an activation's moves slowly.
    """

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor
    frozen: Tensor

    def __init__(self, observer: ObserverBase, following: float = FOLLOWING) -> None:
        super().__init__(observer)
        self.following = following
        scale, zero_point = observer.calculate_qparams()
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero_point.to(torch.int32))
        self.register_buffer("low", (self.quant_min - zero_point) * self.scale)
        self.register_buffer("high", (self.quant_max - zero_point) * self.scale)
        self.register_buffer("frozen", torch.tensor(False))  # noqa: FBT003 - a value, no switch

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.frozen:
            self._follow(x.detach())
        return self.round(x, self.scale, self.zero_point)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self.scale, self.zero_point

    def _follow(self, x: Tensor) -> None:
        if self.per_channel:
            self.scale.copy_(weight_scales(x, self.quant_max))
            return
        self.low.lerp_(x.amin().reshape(self.low.shape), self.following)
        self.high.lerp_(x.amax().reshape(self.high.shape), self.following)
        scale, zero_point = encode(
            float(self.low), float(self.high), symmetric=self.qscheme == torch.per_tensor_symmetric
        )
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)


class SameRange(Rounding):
    """Rounds a value that was only moved by the range that another finds for it.

    What dropout scaled up while the network trains is no value that the network will see: it passes as it is.
    """

    def __init__(self, observer: ObserverBase, first: TrainedRange, *, dropped: bool) -> None:
        super().__init__(observer)
        self.first, self.dropped = first, dropped

    def forward(self, x: Tensor) -> Tensor:
        return x if self.dropped and self.training else self.round(x, *self.calculate_qparams())

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self.first.calculate_qparams()


def round_in_training(observed: GraphModule) -> GraphModule:
    """Give an observed graph in which every observer rounds, and dropout obeys ``train()`` and ``eval()``."""
    made: dict[int, Rounding] = {}
    firsts: dict[Node, TrainedRange] = {}
    for node, observer in _observers(observed, ObserverBase):
        if id(observer) not in made:
            origin, dropped = _origin(observed, node, _keeps_range)
            first = firsts.setdefault(origin, TrainedRange(observer, 1.0 if origin.op == "get_attr" else FOLLOWING))
            behind = SameRange(observer, first, dropped=dropped)
            made[id(observer)] = behind if first in made.values() else first
        observed.set_submodule(str(node.target), made[id(observer)])
    for part in observed.modules():
        if isinstance(part, DerivedObserverOrFakeQuantize):
            part.obs_or_fqs = [made[id(observer)] for observer in part.obs_or_fqs]
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


def settle_weights(trained: GraphModule) -> None:
    """Widen the scales of weights in whose units a bias, as training has left it, would not fit 32 bits."""
    for node in trained.graph.find_nodes(op="call_module"):
        part = trained.get_submodule(str(node.target))
        if isinstance(part, DerivedObserverOrFakeQuantize):
            inputs, weights = (observer.calculate_qparams()[0] for observer in part.obs_or_fqs)
            bias = trained.get_parameter(str(node.args[0].target)).detach()
            weights.copy_(torch.maximum(weights, least_scales(bias, inputs)))


def found_parameters(trained: GraphModule) -> dict[str, tuple[float, int]]:
    """Give scale and zero point of each activation, by the name of the graph's node that gives it."""
    found = {}
    for node, part in _observers(trained, Rounding):
        if not part.per_channel:
            scale, zero_point = part.calculate_qparams()
            found[_origin(trained, node, kernels.moves)[0].name] = float(scale), int(zero_point)
    return found


def _observers(module: GraphModule, kind: type[nn.Module]) -> list[tuple[Node, Any]]:
    """List the calls of a kind of observer in graph order; the derived ones of biases follow others'."""
    calls = [(node, module.get_submodule(str(node.target))) for node in module.graph.find_nodes(op="call_module")]
    return [
        (node, part)
        for node, part in calls
        if isinstance(part, kind) and not isinstance(part, DerivedObserverOrFakeQuantize)
    ]


def _keeps_range(node: Node) -> bool:
    """Tell whether what a node gives lies on the range of what it reads: what is looked up, on the table's."""
    return kernels.moves(node) or node.target in kernels.EMBEDDING


def _origin(module: GraphModule, observer: Node, passes: Callable[[Node], bool]) -> tuple[Node, bool]:
    """Follow what is observed back through what passes it on, and tell whether dropout stands in between."""
    node, dropped = observer, False
    while isinstance(node.args[0] if node.args else None, Node):
        seen = node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), (ObserverBase, Rounding))
        if not (seen or passes(node)):
            break
        dropped |= node.target == _DROPOUT
        node = node.args[0]  # type: ignore[assignment]
    return node, dropped
