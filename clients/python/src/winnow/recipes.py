"""Recipes read from files: YAML or JSON, a list of steps or a whole body of a job."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winnow.errors import ConfigurationError

_GIVEN = frozenset({"model_id", "dataset_id"})


def read(path: Path) -> dict[str, Any]:
    """Give the fields of ``POST /jobs`` that the file holds, ``recipe`` among them. Raises ConfigurationError.

    A file may be the list of steps alone, or name objective, target and other fields beside ``recipe``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    found = _json(path, text) if path.suffix == ".json" else _yaml(path, text)
    if isinstance(found, list):
        found = {"recipe": found}
    if not isinstance(found, Mapping) or not isinstance(found.get("recipe"), list):
        raise _unreadable(path, "it holds neither a list of steps nor a `recipe`.")
    if said := sorted(_GIVEN & found.keys()):
        raise _unreadable(path, f"it names {' and '.join(said)}, which the command itself fills in.")
    return {str(name): value for name, value in found.items()}


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _unreadable(path, f"it is no JSON: {error}.") from error


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ConfigurationError(
            f"{path} is YAML, which needs another package.",
            code="no_yaml",
            hint="Run `pip install 'winnow-client[yaml]'`, or write the recipe as .json.",
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unreadable(path, f"it is no YAML: {error}.") from error


def _unreadable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is no recipe: {why}", code="bad_recipe")
