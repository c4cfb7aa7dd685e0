"""JSON with one reading: no duplicate keys, no constants outside the standard, integers within 64 bits."""

import json
import re
from typing import Any, Never

from app.domain.errors import CorruptFile, UnsafeFile

_LIMIT = 1 << 63
MAX_DEPTH = 64
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"')


def loads(text: bytes | str, what: str) -> Any:
    """Parse ``text``; ``what`` names it in errors."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise UnsafeFile(f"{what} holds a key more than once in one object.")
        return found

    def constant(name: str) -> Never:
        raise UnsafeFile(f"{what} holds {name}, which is no JSON.")

    def integer(digits: str) -> int:
        value = int(digits) if len(digits) < 32 else _LIMIT
        if not -_LIMIT <= value < _LIMIT:
            raise UnsafeFile(f"{what} holds a number beyond 64 bits.")
        return value

    try:
        text = text.decode() if isinstance(text, bytes) else text
        _check_depth(text, what)
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=integer)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{what} is no JSON: {error}") from error


def _check_depth(text: str, what: str) -> None:
    """Bound the nesting before the parser recurses."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for part in _BRACKETS.finditer(text):
        bracket = part.group()
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise UnsafeFile(f"{what} is nested deeper than {MAX_DEPTH} levels.")
        elif bracket in "]}":
            depth -= 1
