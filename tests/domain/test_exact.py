"""Values of JSON are taken for what they are, wherever in a body they stand."""

import pytest
from pydantic import ValidationError

from app.domain.job import JobSpec

BODY = {"model_id": "mdl_1", "dataset_id": "dat_1", "recipe": [{"method": "prune", "amount": 0.5}]}


def refused(**fields):
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(BODY | fields)
    return caught.value.errors()[0]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"seed": False}, ("seed",)),
        ({"seed": "1"}, ("seed",)),
        ({"latency": {"batch_sizes": [True]}}, ("latency", "batch_sizes", 0)),
        ({"objective": {"max_drop": True}}, ("objective", "max_drop")),
        ({"recipe": [{"method": "prune", "amount": "0.5"}]}, ("recipe", 0, "prune", "amount")),
        ({"recipe": [{"method": "prune", "analyze": 1}]}, ("recipe", 0, "prune", "analyze")),
    ],
)
def test_what_is_something_else_is_refused_where_it_stands(fields, place):
    assert refused(**fields)["loc"] == place


def test_it_says_what_came_and_what_was_wanted():
    assert refused(priority="7")["msg"] == "Input should be a whole number, not a string"


def test_a_whole_number_written_with_a_point_is_one():
    assert JobSpec.model_validate(BODY | {"seed": 1.0}).seed == 1
