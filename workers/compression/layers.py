"""Which ``nn`` module would have made an aten operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

Arguments = dict[str, Any]
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def arguments(node: fx.Node) -> Arguments:
    """Give an operator's arguments by the names of its schema, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)  # noqa: SLF001 - torch has no public name for the class
    schema = node.target._schema.arguments  # noqa: SLF001
    given = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    given |= dict(zip((argument.name for argument in schema), node.args, strict=False))
    return given | node.kwargs


def _convolution(kind: type[nn.Module]) -> Callable[[Arguments, int], nn.Module]:
    def build(given: Arguments, _rank: int) -> nn.Module:
        weight, groups = given["weight"], given["groups"]
        padding = given["padding"]
        return kind(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=_full(given["stride"], weight),
            padding=padding if isinstance(padding, str) else _full(padding, weight),
            dilation=_full(given["dilation"], weight),
            groups=groups,
            bias=given["bias"] is not None,
            device="meta",
        )

    return build


def _transposed(kind: type[nn.Module]) -> Callable[[Arguments, int], nn.Module]:
    def build(given: Arguments, _rank: int) -> nn.Module:
        weight, groups = given["weight"], given["groups"]
        return kind(
            weight.shape[0],
            weight.shape[1] * groups,
            tuple(weight.shape[2:]),
            stride=_full(given["stride"], weight),
            padding=_full(given["padding"], weight),
            output_padding=_full(given["output_padding"], weight),
            groups=groups,
            bias=given["bias"] is not None,
            dilation=_full(given["dilation"], weight),
            device="meta",
        )

    return build


def _full(values: int | list[int], weight: torch.Tensor) -> tuple[int, ...]:
    """Write a size given once for all spatial dimensions out in full."""
    listed = [values] if isinstance(values, int) else list(values)
    return tuple(listed * (weight.dim() - 2) if len(listed) == 1 else listed)


def _linear(given: Arguments, _rank: int) -> nn.Module:
    weight = given["weight"]
    return nn.Linear(weight.shape[1], weight.shape[0], bias=given["bias"] is not None, device="meta")


def _batch_norm(given: Arguments, rank: int) -> nn.Module:
    tracked = given["running_mean"] is not None
    known = next(given[key] for key in ("weight", "running_mean") if given[key] is not None)
    return NORMS[rank](
        len(known),
        eps=given["eps"],
        momentum=given["momentum"],
        affine=given["weight"] is not None,
        track_running_stats=tracked,
    )


def _layer_norm(given: Arguments, _rank: int) -> nn.Module:
    return nn.LayerNorm(
        list(given["normalized_shape"]),
        eps=given["eps"],
        elementwise_affine=given["weight"] is not None,
        bias=given["bias"] is not None,
        device="meta",
    )


class GroupNorm(nn.GroupNorm):
    """A group norm as the operator computes it: torch's own refuses groups of one value, as if they were a batch."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        """Normalize each group of ``input``, (batch, channels, ...)."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _group_norm(given: Arguments, _rank: int) -> nn.Module:
    return GroupNorm(given["num_groups"], len(given["weight"]), eps=given["eps"], device="meta")


def _embedding(given: Arguments, _rank: int) -> nn.Module:
    padding = given["padding_idx"]
    rows, width = given["weight"].shape
    return nn.Embedding(
        rows,
        width,
        padding_idx=None if padding == -1 else padding,
        scale_grad_by_freq=given["scale_grad_by_freq"],
        sparse=given["sparse"],
        device="meta",
    )


BUILDERS: dict[str, Callable[[Arguments, int], nn.Module]] = {
    "conv1d": _convolution(nn.Conv1d),
    "conv2d": _convolution(nn.Conv2d),
    "conv3d": _convolution(nn.Conv3d),
    "conv_transpose1d": _transposed(nn.ConvTranspose1d),
    "conv_transpose2d": _transposed(nn.ConvTranspose2d),
    "conv_transpose3d": _transposed(nn.ConvTranspose3d),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
}
