"""How a program's inputs and outputs nest: torch resolves the names of container types, and imports some."""

import keyword
import re
from typing import Any

from app.domain.errors import UnsafeFile
from workers.compression.admission import strict_json

_CONTAINERS = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_KEYED = frozenset({"builtins.dict", "collections.OrderedDict"})
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.\- ][A-Za-z0-9_]+)*")
_MAX_NODES = 10_000
_MAX_DEPTH = 24
_HINT = "Take and return tensors, or tuples, lists and dictionaries of them; then export again."


def check_tree(text: str, where: str, *, names_arguments: bool = False) -> None:
    """Admit a serialized tree of tuples, lists and dictionaries with plain keys.

    With ``names_arguments`` the second child of the root holds the keyword arguments, whose keys become code.
    """
    document = strict_json.loads(text, where)
    match document:
        case [1, dict() as root]:
            budget = [_MAX_NODES]
            _check_node(root, where, 0, budget)
        case _:
            raise UnsafeFile(f"{where} is in no version that is admitted.", hint=_HINT)
    if names_arguments:
        for key in _keyword_names(root, where):
            if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key):
                raise UnsafeFile(f"{where} names the argument {str(key)[:80]!r}.", hint=_HINT)


def _check_node(node: Any, where: str, depth: int, budget: list[int]) -> None:
    budget[0] -= 1
    if depth > _MAX_DEPTH or budget[0] < 0:
        raise UnsafeFile(f"{where} nests too deeply or has too many parts.", hint=_HINT)
    match node:
        case {"type": None, "context": None, "children_spec": [], **rest} if not rest:
            return
        case {"type": str(kind), "context": str(context), "children_spec": list(children), **rest} if (
            not rest and kind in _CONTAINERS
        ):
            _check_context(kind, context, len(children), where)
            for child in children:
                _check_node(child, where, depth + 1, budget)
        case _:
            odd = node.get("type") if isinstance(node, dict) else node
            raise UnsafeFile(f"{where} holds a container of the kind {str(odd)[:80]!r}.", hint=_HINT)


def _check_context(kind: str, context: str, children: int, where: str) -> None:
    keys = strict_json.loads(context, where)
    if kind not in _KEYED:
        if keys is not None:
            raise UnsafeFile(f"{where} gives a {kind} a context.", hint=_HINT)
        return
    if not isinstance(keys, list) or len(keys) != children:
        raise UnsafeFile(f"{where} holds a dictionary whose keys and values differ in number.", hint=_HINT)
    for key in keys:
        if type(key) is not int and not (isinstance(key, str) and _KEY.fullmatch(key)):
            raise UnsafeFile(f"{where} holds the key {str(key)[:80]!r}.", hint="Use plain names as keys.")


def _keyword_names(root: dict[str, Any], where: str) -> list[Any]:
    match root:
        case {"children_spec": [_, {"type": "builtins.dict", "context": str(context)}]}:
            names: list[Any] = strict_json.loads(context, where)
            return names
        case _:
            raise UnsafeFile(f"{where} is no pair of arguments and keyword arguments.", hint=_HINT)
