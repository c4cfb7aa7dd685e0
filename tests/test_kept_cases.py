"""The cache of ``make bench`` tells what it kept from what was measured today."""

import json
import threading
import time
from dataclasses import replace

import pytest

from benchmarks.kept import Kept, Row, alone, code_version, machine
from workers.turn import Turn

ROW = Row(
    right=9, rows=10, latency_ratio=3.0, latency_ci95=(2.9, 3.1), noisy=False, size_ratio=4.0, seconds=2443.0,
    measured_at="1 May 2026", measured_by="", made_at="30 April 2026", made_by="",
)  # fmt: skip


@pytest.fixture
def today():
    return replace(ROW, measured_by=f"{machine()}, code {code_version()}", made_by=code_version())


def test_a_line_of_this_code_and_machine_is_kept(tmp_path, today):
    assert Kept(tmp_path).row("nncf", lambda: today) == today
    assert Kept(tmp_path).row("nncf", pytest.fail) == today


@pytest.mark.parametrize("found", [{"measured_by": "a 486, code 0123456789ab"}, {}])
def test_a_line_of_another_machine_or_code_is_measured_again(tmp_path, today, found):
    old = {"right": 1, "rows": 10, "latency_ratio": 13.9, "latency_ci95": [13.5, 14.4], "seconds": 5.0}
    (tmp_path / "nncf.row.json").write_text(json.dumps(old | found))
    assert Kept(tmp_path).row("nncf", lambda: today) == today
    assert json.loads((tmp_path / "nncf.row.json").read_text())["latency_ratio"] == 3.0


def test_a_noisy_timing_shows_in_the_table(today):
    assert "3.00 (2.90–3.10) |" in str(today)
    assert "3.00 (2.90–3.10) noisy |" in str(replace(today, noisy=True))


def test_days_and_the_code_of_an_older_file_show_in_the_table(today):
    assert str(today).endswith("| 2443 | 1 May 2026 | 30 April 2026")
    assert str(replace(today, made_by="abc")).endswith("| 30 April 2026, code abc")


def test_a_file_counts_the_seconds_of_those_it_is_made_from(tmp_path):
    path = tmp_path / "integers.onnx"

    def make():
        path.write_bytes(b"")
        return 2443.0

    began = time.monotonic()
    made = Kept(tmp_path).made(path, make)
    assert 2443 <= made.seconds <= 2443 + time.monotonic() - began
    assert made.by == code_version()
    assert Kept(tmp_path).made(path, pytest.fail) == made


def test_nobody_measures_beside(tmp_path):
    lock, order = tmp_path / "lock", []

    def measure():
        with alone(lock):
            order.append("measured")

    with Turn(lock) as turn:
        turn.ask()
        assert turn.comes()
        thread = threading.Thread(target=measure)
        thread.start()
        time.sleep(0.5)
        order.append("given back")
    thread.join(60)
    assert order == ["given back", "measured"]
