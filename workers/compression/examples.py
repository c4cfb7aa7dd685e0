"""Rows to try a network with: what an input may hold is read off the graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

EMBEDDING = torch.ops.aten.embedding.default
_PASSING = frozenset(
    getattr(torch.ops.aten, name)
    for name in ("view", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "slice", "select", "clone", "to")
)
"""Operators behind which an index is still the same index."""


def draw(dtype: torch.dtype, shape: list[int], rows: int | None, generator: torch.Generator) -> torch.Tensor:
    """Draw normal floats and, below ``rows``, indices; any other integer is 1, as in a mask that hides nothing."""
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    if rows is not None:
        return torch.randint(rows, shape, generator=generator).to(dtype)
    return torch.ones(shape, dtype=dtype)


def table_rows(module: fx.GraphModule, placeholder: fx.Node) -> int | None:
    """Tell how many rows the smallest table has from which this input picks, None where it picks from none."""
    return min(_tables(module, placeholder), default=None)


def _tables(module: fx.GraphModule, node: fx.Node) -> Iterator[int]:
    for user in node.users:
        if user.op == "call_module":
            part = module.get_submodule(str(user.target))
            if isinstance(part, nn.Embedding):
                yield part.weight.shape[0]
        elif user.target is EMBEDDING and user.args[1] is node:
            table = user.args[0]
            if isinstance(table, fx.Node) and table.op == "get_attr":
                yield module.get_parameter(str(table.target)).shape[0]
        elif getattr(user.target, "overloadpacket", None) in _PASSING:
            yield from _tables(module, user)
