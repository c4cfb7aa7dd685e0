"""How a refusal is told: where in the payload it is, and which layers there are."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from app.domain.errors import FieldError, ValidationFailed, WinnowError
from app.domain.model import Layer

_MOST_LISTED = 20


def refuse(error: type[WinnowError], pointer: str, message: str, hint: str | None = None) -> WinnowError:
    """Make an error with a pointer to the place of the payload that it is about."""
    return error(message, hint=hint, errors=[FieldError(pointer=pointer, message=message)])


def at_items(pointer: str, patterns: Sequence[str]) -> list[tuple[str, str]]:
    """Give each pattern of a list with the pointer to it."""
    return [(f"{pointer}/{place}", pattern) for place, pattern in enumerate(patterns)]


def at_keys(pointer: str, patterns: Iterable[str]) -> list[tuple[str, str]]:
    """Give each pattern that is a key with the pointer to it, written as RFC 6901 has it."""
    return [(f"{pointer}/{pattern.replace('~', '~0').replace('/', '~1')}", pattern) for pattern in patterns]


def is_named(pattern: str, layer: Layer) -> bool:
    return fnmatchcase(layer.name, pattern)


def check_patterns(
    placed: Iterable[tuple[str, str]], layers: Sequence[Layer], what: str, matches: Callable[[str, Layer], bool]
) -> None:
    """Raise ValidationFailed for a pattern that none of ``layers``, of which ``what`` is said, matches."""
    for pointer, pattern in placed:
        if not any(matches(pattern, layer) for layer in layers):
            message = f"No layer that {what} is named {pattern!r}; there are: {listed(layers, with_operator)}."
            raise refuse(ValidationFailed, pointer, message)


def with_operator(layer: Layer) -> str:
    return f"{layer.name} ({layer.op})"


def listed(layers: Sequence[Layer], tell: Callable[[Layer], str], between: str = ", ") -> str:
    """Tell of the first layers, and how many more there are."""
    rest = len(layers) - _MOST_LISTED
    told = between.join(map(tell, layers[:_MOST_LISTED])) or "none"
    return f"{told} and {rest} more" if rest > 0 else told
