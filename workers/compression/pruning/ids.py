"""An id for every index of every weight dimension, and which ids must stay or go together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FROZEN = -1
"""The label of every id that cannot be removed."""


class IdSpace:
    """Hands ids out, collects what is joined or frozen, and labels the connected components."""

    def __init__(self) -> None:
        self.count = 0
        self._edges: list[NDArray[np.int64]] = []
        self._frozen: list[tuple[NDArray[np.int64], str]] = []
        self._constants: set[int] = set()

    def fresh(self, *shape: int) -> torch.Tensor:
        size = int(np.prod(shape))
        ids = torch.arange(self.count, self.count + size).view(shape)
        self.count += size
        return ids

    def constant(self, shape: torch.Size, reason: str) -> torch.Tensor:
        """Make ids for values that no weight can shrink: one frozen id everywhere."""
        one = self.fresh(1)
        self.freeze(one, reason)
        self._constants.add(int(one))
        return one.view([1] * len(shape)).expand(shape)

    def is_constant(self, ids: torch.Tensor) -> bool:
        """Tell whether these are the ids of values that no weight can shrink."""
        small = compact(ids)
        return small.numel() == 1 and int(small) in self._constants

    def join(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Tie ids that stand at the same place; the shapes broadcast."""
        left, right = torch.broadcast_tensors(left, right)
        for axis in range(left.dim()):
            if left.stride(axis) == 0 and right.stride(axis) == 0:
                left, right = left.narrow(axis, 0, 1), right.narrow(axis, 0, 1)
        pairs = np.stack([left.reshape(-1).numpy(), right.reshape(-1).numpy()])
        pairs = pairs[:, pairs[0] != pairs[1]]
        self._edges.append(np.unique(pairs, axis=1))

    def freeze(self, ids: torch.Tensor, reason: str) -> None:
        self._frozen.append((np.unique(compact(ids).reshape(-1).numpy()), reason))

    def components(self) -> tuple[NDArray[np.int64], dict[int, list[str]]]:
        """Label every id by its component, FROZEN where it may not go; with the reasons, by the id's component.

        The reasons are keyed by the bare component, which :meth:`raw` gives.
        """
        raw = self.raw()
        reasons: dict[int, list[str]] = {}
        for ids, reason in self._frozen:
            for label in np.unique(raw[ids]).tolist():
                known = reasons.setdefault(label, [])
                if reason not in known:
                    known.append(reason)
        return self._labelled(raw), reasons

    def labels(self) -> NDArray[np.int64]:
        """Label as :meth:`components` does, without the reasons, which take far longer to gather."""
        return self._labelled(self.raw())

    def _labelled(self, raw: NDArray[np.int64]) -> NDArray[np.int64]:
        stuck = np.zeros(self.count, dtype=bool)
        for ids, _ in self._frozen:
            stuck[raw[ids]] = True
        return np.where(stuck[raw], FROZEN, raw)

    def raw(self) -> NDArray[np.int64]:
        edges = np.concatenate([np.zeros((2, 0), np.int64), *self._edges], axis=1)
        self._edges = [edges]
        graph = coo_array((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(self.count, self.count))
        return connected_components(graph, directed=False)[1].astype(np.int64)


def compact(ids: torch.Tensor) -> torch.Tensor:
    """Narrow the dimensions that merely repeat one value to size 1."""
    for axis in range(ids.dim()):
        if ids.stride(axis) == 0 and ids.shape[axis] > 1:
            ids = ids.narrow(axis, 0, 1)
    return ids


def squash(ids: torch.Tensor) -> torch.Tensor:
    """Give the same ids in the least memory: dimensions along which nothing varies become expanded."""
    small = compact(ids)
    for axis in range(small.dim()):
        if small.shape[axis] > 1 and not varies(small, axis):
            small = small.narrow(axis, 0, 1)
    return small.clone().expand(ids.shape) if small.numel() else ids


def varies(ids: torch.Tensor, axis: int) -> bool:
    if ids.shape[axis] <= 1 or ids.stride(axis) == 0:
        return False
    small = compact(ids)
    return bool((small != small.narrow(axis, 0, 1)).any())


def along(vector: torch.Tensor, axis: int, shape: torch.Size) -> torch.Tensor:
    """Lay one id an index along ``axis`` of a tensor of this shape."""
    places = [1] * len(shape)
    places[axis] = len(vector)
    return vector.view(places).expand(shape)
