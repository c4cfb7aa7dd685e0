"""Blocks of a network that can be left out: they take one value and give one of the same shape.

Found in the graph alone. A cut is a value that all that follows is made from, so that what lies between two cuts has
one way in and one way out. Values that live through many blocks, such as an attention mask or a size of the batch,
would leave no cut at all: they stand aside, the longest-lived first, as many as leave the most of the network in blocks
that are repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from workers.compression.lifting import op_name
from workers.compression.network import Network

MOST_ASIDE = 8
_HEAVY = (_ConvNd, nn.Linear)
_SUMS = frozenset({"add"})
_PRODUCTS = frozenset({"addmm", "mm", "matmul", "bmm", "linear", "conv1d", "conv2d", "conv3d"})


@dataclass(frozen=True)
class Segment:
    """What lies between two cuts that follow each other; equal ``form`` means the same operators, wired alike."""

    entry: fx.Node
    exit: fx.Node
    nodes: tuple[fx.Node, ...]
    form: str
    heavy: bool
    residual: bool
    """Whether it adds its very input to what it makes of it."""


@dataclass(frozen=True)
class Block:
    """Segments that can be left out together: what reads ``exit`` then reads ``entry``."""

    entry: fx.Node
    exit: fx.Node
    nodes: int
    layers: tuple[str, ...]
    repeated: bool
    """Whether others of the same operators, wired alike, stand right beside it."""


def find_blocks(network: Network) -> list[Block]:
    """Find the blocks that can go, in the order in which they run; the network runs once, on example rows."""
    shapes = _Shapes(network.module)
    shapes.run(*network.example_inputs())
    values = [node for node in network.module.graph.nodes if node.op not in {"get_attr", "output"}]
    place = {node: at for at, node in enumerate(values)}
    # The output is the last to read.
    lives = {node: max((place.get(user, len(values)) for user in node.users), default=at) for at, node in
             enumerate(values)}  # fmt: skip
    longest = sorted(values, key=lambda node: (place[node] - lives[node], place[node]))
    best: list[Block] = []
    for aside in range(MOST_ASIDE + 1):
        cuts = _cuts(values, lives, frozenset(longest[:aside]))
        found = _blocks(_segments(network.module, values, lives, cuts), shapes.of, network.module)
        if _worth(found) > _worth(best):
            best = found
    return best


def keep_blocks(network: Network, gone: Sequence[Block]) -> Network:
    """Give a copy of the network without these blocks, which must be this very network's."""
    module = network.clone().module
    nodes = {node.name: node for node in module.graph.nodes}
    # From the end, as one block's exit may be the next one's entry.
    for block in reversed(gone):
        nodes[block.exit.name].replace_all_uses_with(nodes[block.entry.name])
    module.graph.eliminate_dead_code()
    module.graph.lint()
    return replace(network, module=fx.GraphModule(module, module.graph).eval())


def _worth(blocks: Sequence[Block]) -> tuple[int, int]:
    """Count the operators in blocks that are repeated, then those in all."""
    repeated = sum(block.nodes for block in blocks if block.repeated)
    return repeated, sum(block.nodes for block in blocks)


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape and dtype of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._found: dict[fx.Node, tuple[tuple[int, ...], torch.dtype]] = {}

    def run_node(self, n: fx.Node) -> Any:
        with torch.no_grad():
            value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self._found[n] = tuple(value.shape), value.dtype
        return value

    def of(self, node: fx.Node) -> tuple[tuple[int, ...], torch.dtype] | None:
        return self._found.get(node)


def _cuts(values: Sequence[fx.Node], lives: dict[fx.Node, int], aside: frozenset[fx.Node]) -> list[fx.Node]:
    """List the values that are all that is still needed when they have been made, but for what stands aside."""
    found, open_ = list[fx.Node](), set[fx.Node]()
    for at, node in enumerate(values):
        open_ = {value for value in open_ if lives[value] > at}
        if node not in aside and lives[node] > at:
            open_.add(node)
        # It may have been made some time ago, before a mask was prepared for what follows.
        if len(open_) == 1 and found[-1:] != list(open_):
            found += open_
    return found


def _segments(
    module: fx.GraphModule, values: Sequence[fx.Node], lives: dict[fx.Node, int], cuts: Sequence[fx.Node]
) -> list[Segment | None]:
    """Give what lies between cuts, None where it makes more than one value for what follows."""
    place = {node: at for at, node in enumerate(values)}
    found: list[Segment | None] = []
    digests = _digests(module)
    for entry, exit_ in pairwise(cuts):
        inside: dict[fx.Node, int] = {}
        for node in values[place[entry] + 1 : place[exit_] + 1]:
            # What does not come from the entry, such as a mask that is prepared here, is no part of it.
            if any(source is entry or source in inside for source in node.all_input_nodes):
                inside[node] = len(inside)
        leaks = any(lives[node] > place[exit_] for node in inside if node is not exit_)
        found.append(None if leaks or exit_ not in inside else _segment(module, entry, exit_, inside, digests))
    return found


def _digests(module: fx.GraphModule) -> dict[fx.Node, str]:
    """Name every value by how it is computed, so that what each block prepares anew for itself has one name."""
    found: dict[fx.Node, str] = {}
    for node in module.graph.nodes:
        told = fx.node.map_arg((node.args, dict(node.kwargs)), lambda source: _Told(found[source]))
        found[node] = hashlib.blake2b(f"{node.op} {node.target} {told}".encode(), digest_size=8).hexdigest()
    return found


def _segment(
    module: fx.GraphModule, entry: fx.Node, exit_: fx.Node, inside: dict[fx.Node, int], digests: dict[fx.Node, str]
) -> Segment:
    def told(source: fx.Node) -> str:
        if source is entry:
            return "entry"
        if source in inside:
            return f"#{inside[source]}"
        if source.op == "get_attr":
            owner, _, leaf = str(source.target).rpartition(".")
            return f"tensor {list(getattr(module.get_submodule(owner), leaf).shape)}"
        return digests[source]

    rows = []
    for node in inside:
        what = repr(module.get_submodule(str(node.target))) if node.op == "call_module" else str(node.target)
        rows.append(f"{what} {fx.node.map_arg((node.args, dict(node.kwargs)), lambda source: _Told(told(source)))}")
    residual = any(
        op_name(node) in _SUMS and entry in node.args and any(source in inside for source in node.all_input_nodes)
        for node in inside
    )
    heavy = any(_is_heavy(module, node) for node in inside)
    return Segment(entry, exit_, tuple(inside), "\n".join(rows), heavy, residual)


def _is_heavy(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node multiplies by weights, as a module or as an operator that stayed one."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _HEAVY)
    return op_name(node) in _PRODUCTS and any(source.op == "get_attr" for source in node.all_input_nodes)


class _Told(str):
    """A name that is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _blocks(segments: Sequence[Segment | None], shape_of: Any, module: fx.GraphModule) -> list[Block]:
    found: list[Block] = []
    at = 0
    while at < len(segments):
        units = list(_units(segments, at, shape_of))
        found += [_block(unit, module, repeated=len(units) > 1) for unit in units]
        at += max(1, sum(map(len, units)))
    return found


def _units(segments: Sequence[Segment | None], at: int, shape_of: Any) -> Iterator[list[Segment]]:
    """Give the blocks that begin here: the shortest run that is repeated, or one residual segment.

    A run with residual segments begins with one, else with a layer that has weights.
    """
    first = segments[at]
    if first is None or not (first.residual or first.heavy):
        return
    for length in range(1, (len(segments) - at) // 2 + 1):
        runs = [segments[begin : begin + length] for begin in range(at, len(segments) - length + 1, length)]
        forms = [[segment and segment.form for segment in run] for run in runs]
        repeats = next((place for place, form in enumerate(forms) if form != forms[0]), len(forms))
        unit = [segment for segment in runs[0] if segment is not None]
        begins_well = first.residual or not any(segment.residual for segment in unit)
        if repeats > 1 and len(unit) == length and begins_well and _is_droppable(unit, shape_of):
            for run in runs[:repeats]:
                yield [segment for segment in run if segment is not None]
            return
    if first.residual and _is_droppable([first], shape_of):
        yield [first, *_trailing(segments, at, shape_of)]


def _trailing(segments: Sequence[Segment | None], at: int, shape_of: Any) -> Iterator[Segment]:
    """Give the activations and norms right behind a residual sum."""
    for segment in segments[at + 1 :]:
        if segment is None or segment.heavy or segment.residual:
            return
        if shape_of(segment.entry) != shape_of(segment.exit):
            return
        yield segment


def _is_droppable(unit: Sequence[Segment], shape_of: Any) -> bool:
    before, after = shape_of(unit[0].entry), shape_of(unit[-1].exit)
    return before is not None and before == after and any(segment.heavy for segment in unit)


def _block(unit: Sequence[Segment], module: fx.GraphModule, *, repeated: bool) -> Block:
    nodes = [node for segment in unit for node in segment.nodes]
    called = dict.fromkeys(str(node.target) for node in nodes if node.op == "call_module")
    layers = tuple(name for name in called if any(True for _ in module.get_submodule(name).parameters()))
    return Block(unit[0].entry, unit[-1].exit, len(nodes), layers, repeated)
