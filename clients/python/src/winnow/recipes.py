"""Recipes read from files: YAML or JSON, a list of steps or a whole body of a job."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winnow.errors import ConfigurationError

_GIVEN = frozenset({"model_id", "dataset_id"})
FIELDS = frozenset(
    {
        "name", "recipe", "task", "target", "objective", "latency", "queue", "priority", "seed", "time_limit_seconds",
        "labels",
    }
)  # fmt: skip
"""What a file may name: the fields of ``POST /jobs`` but for the two that the command fills in."""


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
    if unknown := sorted(str(name) for name in found.keys() - FIELDS):
        raise _unreadable(path, f"it names {', '.join(unknown)}; the fields of a job are {', '.join(sorted(FIELDS))}.")
    try:
        check(**found)
    except ConfigurationError as error:
        raise _unreadable(path, error.detail) from error
    return dict(found)


def check(recipe: Sequence[Any], objective: Any = None, **fields: Any) -> None:
    """Raise ConfigurationError for what can be no body of a job, before a file is sent for nothing."""
    if isinstance(recipe, str | bytes | Mapping) or not isinstance(recipe, Sequence):
        raise _refused(f"A recipe is a list of steps, not {recipe!r:.80}.")
    for number, step in enumerate(recipe, start=1):
        if not isinstance(step, Mapping):
            raise _refused(f"Step {number} is {step!r:.80}; a step names its method, as in {{method: prune}}.")
    if not (objective is None or isinstance(objective, Mapping)):
        raise _refused(f"The objective is {objective!r:.80}; it has fields, as in {{max_drop: 0.01}}.")
    body = [*map(dict, recipe), objective and dict(objective), fields]
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(f"It holds what JSON has no words for: {error}.") from error


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
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
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date may be none
        raise _unreadable(path, f"it is no YAML: {error}.") from error


def _unreadable(path: Path, why: str) -> ConfigurationError:
    return _refused(f"{path} is no recipe: {why}")


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError(why, code="bad_recipe")
