"""Channels that must go together: the connected components of ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from workers.compression.network import Network
from workers.compression.pruning.ids import FROZEN, compact, squash, varies
from workers.compression.pruning.selection import Labels, joined
from workers.compression.pruning.walk import Walk


@dataclass(frozen=True)
class Producer:
    """A weight whose dimension ``axis`` makes channels; ``labels`` tells the unit of each, FROZEN where none."""

    weight: str
    axis: int
    labels: Labels

    @property
    def layer(self) -> str:
        return self.weight.rpartition(".")[0] or self.weight


@dataclass(frozen=True)
class Groups:
    """What may be removed. A unit is one channel with all that is coupled to it, anywhere in the network."""

    walk: Walk
    labels: Labels
    """The unit of each id, FROZEN where it may not go."""
    units: Labels
    producers: tuple[Producer, ...]
    lines: tuple[Labels, ...]
    """Sets of units that together fill a dimension: one of each must stay."""
    reasons: dict[str, str]
    """Why none of a layer's channels can be removed, by the layer's name."""

    def names(self) -> dict[str, str]:
        """Name the group of each prunable layer, ``g1`` the first to run; layers that share a unit share it."""
        merged: list[tuple[list[str], set[int]]] = []
        for producer in self.producers:
            units = set(producer.labels.tolist()) - {FROZEN}
            if not units:
                continue
            touching = [part for part in merged if part[1] & units]
            layers = [layer for part in touching for layer in part[0]] + [producer.layer]
            merged = [part for part in merged if not part[1] & units]
            merged.append((layers, units.union(*(part[1] for part in touching))))
        order = [producer.layer for producer in self.producers]
        merged.sort(key=lambda part: min(order.index(layer) for layer in part[0]))
        return {layer: f"g{place}" for place, (layers, _) in enumerate(merged, start=1) for layer in layers}


def find_groups(network: Network) -> Groups:
    """Send ids through the network and find which channels can be removed together.

    The network runs once, on one row.
    """
    walk = Walk(network)
    observed = _observed(walk)
    _square_up(walk, observed)
    labels, frozen = walk.space.components()
    vectors = [ids.numpy() for ids in walk.dimensions.values()] + [compact(ids).reshape(-1).numpy() for ids in observed]
    lines = {tuple(np.unique(labels[ids]).tolist()) for ids in vectors if ids.size}
    # A dimension that one unit fills alone can lose nothing.
    filling = [line[0] for line in lines if len(line) == 1 and line[0] != FROZEN]
    labels = np.where(np.isin(labels, filling), FROZEN, labels)
    producers = tuple(
        Producer(name, axis, labels[walk.dimensions[name, axis].numpy()]) for name, axis in walk.producers.items()
    )
    made = np.unique(joined(producer.labels for producer in producers))
    units = made[made != FROZEN]
    raw = walk.space.raw()
    reasons = {}
    for producer in producers:
        if not (producer.labels == FROZEN).all():
            continue
        found = [
            reason
            for label in np.unique(raw[walk.dimensions[producer.weight, producer.axis].numpy()]).tolist()
            for reason in frozen.get(label, ())
        ]
        alone = (
            "one channel is all that it has" if len(producer.labels) == 1 else "its channels can only go all at once"
        )
        reasons[producer.layer] = "; ".join(dict.fromkeys(found)) or alone
    open_lines = tuple(np.array(line) for line in sorted(lines) if FROZEN not in line and not set(line) & set(filling))
    return Groups(walk, labels, units, producers, open_lines, reasons)


def _observed(walk: Walk) -> list[torch.Tensor]:
    """List the ids of every value and loose tensor, each arrangement once."""
    found: dict[tuple[tuple[int, ...], bytes], torch.Tensor] = {}
    for ids in [*walk.node_ids.values(), *walk.elements.values()]:
        for part in ids if isinstance(ids, tuple) else [ids]:
            if part is not None:
                small = compact(squash(part))
                found[tuple(small.shape), small.contiguous().numpy().tobytes()] = small
    return list(found.values())


def _square_up(walk: Walk, observed: list[torch.Tensor]) -> None:
    """Join ids until removing any unit leaves every tensor rectangular.

    Where units lie scattered over two or more dimensions, whole indices of one are joined: of the
    one that leaves the most units.
    """
    scattered = [ids for ids in observed if sum(varies(ids, axis) for axis in range(ids.dim())) > 1]
    changed = True
    while changed:
        changed = False
        for ids in scattered:
            labels = torch.from_numpy(walk.space.labels())[ids]
            axes = [axis for axis in range(ids.dim()) if varies(labels, axis)]
            if len(axes) > 1:
                axis = max(axes, key=lambda axis: (_units_left(labels, axis), axis))
                rows = ids.movedim(axis, 0).reshape(ids.shape[axis], -1)
                walk.space.join(rows, rows[:, :1])
                changed = True


def _units_left(labels: torch.Tensor, axis: int) -> int:
    """Count the units that joining whole indices of ``axis`` leaves (an estimate, to choose by)."""
    rows = labels.movedim(axis, 0).reshape(labels.shape[axis], -1)
    return len(rows.min(dim=1).values.unique())
