"""A job that analyzes, as the supervisor starts it; tests/e2e has one that takes what it found."""

import json

import pytest

from app.domain.errors import NoSensitivity
from app.domain.report import ANY_REPORT, AnalysisReport
from app.domain.sensitivity import SensitivityTable
from tests.compression.test_child import compress_task, start
from workers.compression.__main__ import _read_table

ANALYSIS = {"method": "prune", "analyze": True}


@pytest.fixture(scope="module")
def make_folder(digits_folder, tmp_path_factory):
    def make():
        folder = tmp_path_factory.mktemp("job")
        for name in ("digits.npz", "digits.pt2"):
            (folder / name).symlink_to(digits_folder / name)
        return folder

    return make


@pytest.fixture(scope="module")
def analyzed(make_folder):
    folder = make_folder()
    code, messages, printed = start(folder, compress_task([ANALYSIS]))
    assert (code, messages[-1].type) == (0, "done"), (messages[-1], printed)
    return folder / "out", messages


def test_an_analysis_leaves_a_table_and_a_report_and_no_model(analyzed):
    out, messages = analyzed
    artifacts = [(message.name, message.kind) for message in messages if message.type == "artifact"]
    assert artifacts == [
        ("sensitivity.json", "report"),
        ("report.json", "report"),
        ("report.html", "report"),
        ("model-card.md", "report"),
    ]
    assert {path.name for path in out.iterdir()} == {name for name, _ in artifacts}
    table = SensitivityTable.model_validate_json((out / "sensitivity.json").read_text())
    assert [len(group.measurements) for group in table.groups] == [5, 5]
    stages = [message.data["stage"] for message in messages if message.type == "stage"]
    assert stages == ["preparing", "baseline", "pruning", "packaging"]
    fractions = [message.data["fraction"] for message in messages if message.type == "progress"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_its_report_claims_no_compression(analyzed):
    out, _ = analyzed
    report = ANY_REPORT.validate_json((out / "report.json").read_bytes())
    assert isinstance(report, AnalysisReport)
    assert (report.compressed, report.delta, report.objective) == (None, None, None)
    verdict = report.model_dump(mode="json")["verdict"]
    assert (verdict["faster"], verdict["smaller"], verdict["as_accurate"]) == (None, None, None)
    assert report.verdict.reasons[0].startswith("Nothing was compressed")
    (step,) = report.steps
    assert step.before == step.after
    assert step.details["sensitivity"] == json.loads((out / "sensitivity.json").read_text())
    # Neither a row to train with nor one of those that judge was measured on.
    assert (report.data.train, report.data.calibration, report.data.validation) == (0, 1437, 360)
    assert report.baseline.metrics["accuracy"].samples == 360
    assert report.headline() == {
        "baseline_accuracy": report.baseline.metrics["accuracy"].value,
        "groups": 2,
        "groups_measured": 2,
        "measurements": 10,
        "complete": True,
    }


def test_a_table_that_is_none_is_told(tmp_path, analyzed):
    assert _read_table(analyzed[0] / "sensitivity.json").groups
    (tmp_path / "table.json").write_bytes(b'{"groups": []}')
    with pytest.raises(NoSensitivity, match="cannot be read"):
        _read_table(tmp_path / "table.json")
