"""The recipes of docs/recipes.md can be posted, and each has its figures."""

import json
import re
from pathlib import Path

import pytest

from app.domain.job import JobSpec

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "recipes.md").read_text()
BLOCKS = dict(re.findall(r"^```json (\S+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
ROWS = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", TEXT, re.MULTILINE))
IDS = {"model_id": "mdl_01JZ0000000000000000000000", "dataset_id": "dat_01JZ0000000000000000000000"}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_recipe_is_a_job_that_the_service_takes(name):
    job = JobSpec.model_validate(IDS | json.loads(BLOCKS[name]))
    assert job.objective is not None


def test_each_recipe_has_its_figures_and_each_figure_its_recipe():
    assert ROWS.keys() == BLOCKS.keys()
    columns = next(line for line in TEXT.splitlines() if line.startswith("| case |")).count("|")
    assert {f"| `{name}` | {row} |".count("|") for name, row in ROWS.items()} == {columns}


def test_figures_keep_what_their_recipes_promise():
    for name, row in ROWS.items():
        metric, before, after, drop, *_ = row.split(" | ")
        found = float(drop.partition(" ")[0])
        assert found == pytest.approx(float(before) - float(after), abs=2e-4), (name, metric)
        assert found <= json.loads(BLOCKS[name])["objective"]["max_drop"], name


def test_the_command_that_made_the_figures_makes_each_of_them():
    source = (ROOT / "benchmarks" / "recipes.py").read_text()
    made = re.findall(r'^    "([\w-]+)": write_\w+,$', source, re.MULTILINE)
    assert sorted(made) == sorted(BLOCKS)
