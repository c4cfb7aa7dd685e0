"""Which module a weight belongs to, as the file's names tell it."""

from __future__ import annotations

import keyword
import re

from torch import fx, nn

from workers.compression.formats.onnx_import.graph import Node

LEAVES = frozenset({
    "weight", "bias", "running_mean", "running_var", "gamma", "beta", "kernel", "moving_mean", "moving_variance",
})  # fmt: skip
_TAKEN = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))
_MADE_UP = re.compile(r"^(onnx::|_|val_|const|\d|/)|/|::")


class Names:
    """Gives out dotted names, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._inner: set[str] = set()

    def owner(self, node: Node, constants: list[str]) -> str:
        """Name the module of a node: after its weights, else after the node, else after its operator."""
        parted = [name.rpartition(".") for name in constants if told(name)]
        choices = [path.split(".") for path, _, leaf in parted if path and leaf in LEAVES]
        choices += [parts for parts in (node.scope.split(".") if node.scope else [], _scopes(node.name)) if parts]
        named = [_dotted(parts) for parts in choices]
        return self.free(next((name for name in named if self._is_free(name)), [*named, node.op.lower()][0]))

    def tensor(self, name: str) -> str:
        """Name a tensor that belongs to no layer."""
        if not told(name):
            return self.free("constant")
        path, _, leaf = name.rpartition(".")
        leaf = leaf if leaf in LEAVES and path else _dotted([leaf])
        return self.free(f"{_dotted(path.split('.'))}.{leaf}" if path else leaf)

    def free(self, name: str) -> str:
        """Give the name, or one like it, that is no other's and holds no other within."""
        if any(prefix in self._taken for prefix in _prefixes(name)):
            name = name.replace(".", "_")
        found, number = name, 1
        while not self._is_free(found):
            found, number = f"{name}_{number}", number + 1
        self._taken.add(found)
        self._inner.update(_prefixes(found))
        return found

    def _is_free(self, name: str) -> bool:
        return name not in self._taken and name not in self._inner


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def told(name: str) -> bool:
    """Tell whether somebody gave this name, rather than an exporter."""
    return bool(name) and _MADE_UP.search(name) is None


def _scopes(name: str) -> list[str]:
    """Read the path in a node's name: ``/layer1/layer1.0/conv1/Conv`` stands in ``layer1.0.conv1``."""
    found: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found[-1] = part
        else:
            found.append(part)
    return [piece for part in found for piece in part.split(".")]


def _dotted(parts: list[str]) -> str:
    """Make a path of attributes of whatever stood in the file."""
    safe = []
    for part in parts:
        word = re.sub(r"\W", "_", part, flags=re.ASCII) or "_"
        if not (word.isdigit() or word.isidentifier()):
            word = f"_{word}"
        safe.append(f"{word}_" if word in _TAKEN or word in LEAVES else word)
    return ".".join(safe) or "_"


def argument(name: str, taken: set[str]) -> str:
    """Make the name of an argument of an input's."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "input"
    word = f"input_{word}" if word[0].isdigit() else word
    found, number = word, 1
    while found in taken or found == "self" or keyword.iskeyword(found):
        found, number = f"{word}_{number}", number + 1
    taken.add(found)
    return found
