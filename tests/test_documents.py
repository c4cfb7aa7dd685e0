"""What is documented is what there is."""

import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from app.api import catalogue
from app.api.remedies import REMEDIES
from app.domain.errors import ClientError, Kind
from app.domain.report import report_schema
from app.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"


def test_every_setting_is_described_in_the_code_and_for_operators():
    text = (DOCS / "operating.md").read_text()
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert [name for name in Settings.model_fields if f"| `WINNOW_{name.upper()}` |" not in text] == []


def test_no_setting_is_described_that_does_not_exist():
    lines = (DOCS / "operating.md").read_text().splitlines()
    described = [line.split("`")[1] for line in lines if line.startswith("| `WINNOW_")]
    assert set(described) == {f"WINNOW_{name.upper()}" for name in Settings.model_fields}
    assert len(described) == len(set(described))


def test_every_error_code_is_listed():
    assert (DOCS / "errors.md").read_text() == catalogue.markdown(), "docs/errors.md is stale: run `make errors`"


def test_every_error_says_what_to_do_about_it():
    codes = {error.code for error in catalogue.error_classes()}
    assert codes - REMEDIES.keys() == set(), "app/api/remedies.py lacks a line"
    assert REMEDIES.keys() - codes == set(), "app/api/remedies.py tells of an error that there is not"
    assert [code for code, text in REMEDIES.items() if not text.endswith(".") or len(text) > 200] == []


def test_every_error_has_a_code_of_its_own_and_a_kind_that_fits():
    codes = Counter(error.code for error in catalogue.error_classes())
    assert [code for code, count in codes.items() if count > 1] == []
    internal = [error.code for error in catalogue.error_classes() if error.kind is Kind.INTERNAL]
    client = [error.code for error in catalogue.error_classes(ClientError)]
    assert set(internal) & set(client) == set()


def test_the_schema_of_the_report_is_fresh():
    committed = json.loads((DOCS / "report.schema.json").read_text())
    assert committed == report_schema(), "docs/report.schema.json is stale: run `make report-schema`"


def test_reports_as_they_are_written_fit_their_schema():
    reports = pytest.importorskip("tests.compression.pages.reports", reason="the engine is not installed")
    schema = jsonschema.Draft202012Validator(json.loads((DOCS / "report.schema.json").read_text()))
    schema.check_schema(schema.schema)
    for report in (reports.make_report()[0], reports.make_analysis()):
        written = json.loads(report.model_dump_json())
        schema.validate(written)
        assert not schema.is_valid(written | {"seed": "seven"})
        assert not schema.is_valid(written | {"unknown": 1})
