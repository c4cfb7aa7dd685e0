"""JSON with one reading: no duplicate keys, no constants outside the standard, integers within 64 bits."""

import json
from typing import Any, Never

from app.domain.errors import CorruptFile, UnsafeFile

_LIMIT = 1 << 63


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
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=integer)
    except (ValueError, RecursionError) as error:  # the parser counts its nesting by the interpreter's limit
        raise CorruptFile(f"{what} is no JSON: {error}") from error
