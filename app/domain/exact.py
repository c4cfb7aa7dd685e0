"""Numbers, truth values and times that are what JSON says they are, as the schema has it.

Pydantic would take ``true`` and ``"1"`` for 1, ``1`` for true, and a number for a time.
"""

from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_NEVER: dict[str, tuple[type, ...]] = {
    "int": (bool, str),
    "float": (bool, str),
    "bool": (int, float, str),
    "datetime": (bool, int, float),
}
_NAMES = {bool: "a truth value", int: "a number", float: "a number", str: "a string"}
_WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "datetime": "a time in RFC 3339"}


def _exact(schema: Any) -> Any:
    """Guard every such value within a schema; those of fields that are models themselves are guarded by these."""
    if isinstance(schema, list | tuple):
        return type(schema)(_exact(part) for part in schema)
    if not isinstance(schema, dict):
        return schema
    if (kind := schema.get("type")) in _NEVER:
        return core_schema.no_info_before_validator_function(_refusing(kind), schema)
    kept = {"metadata", "serialization", "default", "expected"}
    return {name: part if name in kept else _exact(part) for name, part in schema.items()}


def _refusing(kind: str) -> Any:
    def refuse(value: Any) -> Any:
        if type(value) in _NEVER[kind]:
            raise PydanticCustomError(f"{kind}_type", f"Input should be {_WANTED[kind]}, not {_NAMES[type(value)]}")
        return value

    return refuse


class Exact(BaseModel):
    """A body none of whose fields is taken for something else than it is."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        found: CoreSchema = _exact(handler(source))
        return found
