"""What a payload was refused for, as the JSON pointers and messages of a problem."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.errors import FieldError, UnknownMethod, UnknownTarget, ValidationFailed, WinnowError

Fault = Mapping[str, Any]
"""One of pydantic's ``errors()``; ``loc`` begins at the payload."""


def refusal(faults: Sequence[Fault], payload: Any) -> WinnowError:
    """Make the error for a payload."""
    found = field_errors(faults, payload)
    return leaf(faults)(told(found), errors=found)


def field_errors(faults: Sequence[Fault], payload: Any, prefix: str = "") -> list[FieldError]:
    """List the faults of a payload that lies at the pointer ``prefix``."""
    return [
        FieldError(pointer=prefix + _pointer(fault, payload), message=message(fault))
        for fault in faults
        if not _follows(fault, faults)
    ]


def told(errors: Sequence[FieldError]) -> str:
    return "; ".join(f"{error.pointer or '/'}: {error.message}" for error in errors)


def leaf(faults: Sequence[Fault]) -> type[WinnowError]:
    for fault in faults:
        if fault["type"] == "union_tag_invalid":
            return UnknownMethod
        if fault["type"] == "literal_error" and fault["loc"] == ("target",):
            return UnknownTarget
    return ValidationFailed


def message(fault: Fault) -> str:
    if fault["type"] == "union_tag_invalid":
        context = fault["ctx"]
        return f"There is no method {context['tag']!r}; there are {context['expected_tags']}."
    return str(fault["msg"]).removeprefix("Value error, ")


def pointer_to(steps: Sequence[str | int]) -> str:
    """Write a JSON pointer (RFC 6901)."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def _follows(fault: Fault, faults: Sequence[Fault]) -> bool:
    """Tell whether a list seems too short only because items of it failed, which have faults of their own."""
    depth = len(fault["loc"])
    return fault["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == fault["loc"] for other in faults
    )


def _pointer(fault: Fault, payload: Any) -> str:
    """Turn pydantic's location into a JSON pointer, without the tags of unions that pydantic puts in between."""
    kept: list[str | int] = []
    here, steps = payload, fault["loc"]
    for number, step in enumerate(steps, start=1):
        is_tag = isinstance(here, dict) and step not in here and (number < len(steps) or step == here.get("method"))
        # Nothing lies within a plain value: what is named there is a kind of value that it could have been.
        is_tag = is_tag or isinstance(here, str | int | float) or (isinstance(here, list) and isinstance(step, str))
        if is_tag or step == "[key]":
            continue
        kept.append(step)
        here = _member(here, step)
    if fault["type"].startswith("union_tag"):
        kept.append("method")
    return pointer_to(kept)


def _member(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None
