"""The table that the command prints, of a report that a job left."""

from winnow.table import table

from app.api.openapi import examples

REPORT = examples()["get_job_report"]["response"]


def test_both_networks_stand_side_by_side_and_the_verdict_below():
    lines = table(REPORT).splitlines()
    assert lines[0].split() == ["before", "after", "gain"]
    before, after = REPORT["baseline"], REPORT["compressed"]
    cells = {line.split("  ")[0]: line for line in lines}
    assert f"{after['size_bytes']:,}" in cells["file (bytes)"]
    assert f"{before['latency'][0]['p50_ms']:.3f}" in cells["latency p50 (ms)"]
    assert cells["accuracy [95 %]"].endswith(f"{REPORT['delta']['metric_drop']['value']:.4f} lost")
    assert len({len(line) for line in lines[:7]}) == 1
    assert lines[7:] == REPORT["verdict"]["reasons"]


def test_an_analysis_shows_what_was_measured_alone():
    side = REPORT["baseline"] | {"latency": []}
    reasons = {"reasons": ["Nothing was compressed."]}
    nothing = dict.fromkeys(("compressed", "delta", "objective"))
    lines = table({"baseline": side, "verdict": reasons, **nothing}).splitlines()
    assert lines[0].split() == ["measured"]
    assert lines[2].split()[-1] == "-"
    assert lines[-1] == "Nothing was compressed."
