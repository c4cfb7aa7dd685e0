"""docs/methods.md knows every name that GET /methods knows."""

import re
from pathlib import Path

import pytest

from app.api.schemas import MethodOut
from app.domain.learning_task import METRICS
from app.domain.recipe import SPECS

TEXT = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
NAMED = {name for code in re.findall(r"`([^`]+)`", TEXT) for name in re.findall(r"[\w:]+", code)}


def names(schema):
    """Give every field of a schema, and every word that one of them may be."""
    if isinstance(schema, list):
        for part in schema:
            yield from names(part)
    elif isinstance(schema, dict):
        yield from (word for word in [*schema.get("enum", ()), schema.get("const")] if isinstance(word, str))
        yield from schema.get("properties", ())
        for part in [*schema.get("properties", {}).values(), *(v for k, v in schema.items() if k != "properties")]:
            yield from names(part)


@pytest.mark.parametrize("method", SPECS)
def test_every_field_and_choice_of_a_method_stands_in_its_document(method):
    told = set(names(MethodOut.of(method, SPECS[method]).schema_))
    assert {"method", method} <= told
    assert sorted(told - NAMED - {"method"}) == []


def test_every_granularity_is_told():
    assert {"channel", "weight", "n:m"} <= NAMED


def test_every_method_has_a_part_that_tells_when_to_use_it_and_where_formulas_go_wrong():
    parts = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    for method in SPECS:
        (part,) = (part for part in parts if part.lower().startswith(method))
        assert "**When:**" in part
        assert "Where formulas go wrong:" in part


def test_every_metric_that_an_objective_can_be_about_has_its_formula():
    words = {"r2": "r²", "top5_accuracy": "top-5 accuracy", "mean_iou": "mean iou"}
    told = TEXT[TEXT.index("## Metrics and statistics") :].lower()
    metrics = {metric for metrics in METRICS.values() for metric in metrics}
    assert [metric for metric in metrics if words.get(metric, metric.replace("_", " ")) not in told] == []
