import numpy as np
import pytest

from workers.compression import energy


class Counting:
    """A session that takes a millijoule a run, by a counter that begins anew behind ``turn``."""

    def __init__(self, root, turn):
        self.root, self.turn, self.runs = root, turn, 0

    def run(self, _names, _feed):
        self.runs += 1
        path = self.root / "intel-rapl:0" / "energy_uj"
        path.write_text(str((int(path.read_text()) + 1000) % (self.turn + 1)))


@pytest.fixture
def root(tmp_path):
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("990\n")
        (tmp_path / name / "max_energy_range_uj").write_text("999999999\n")
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def test_packages_alone_are_read(root):
    assert energy.read(root) == {"intel-rapl:0": (990, 999_999_999)}


def test_a_counter_that_begins_anew_is_followed():
    before, after = {"a": (900, 999), "b": (10, 999)}, {"a": (100, 999), "b": (30, 999)}
    assert energy.used_millijoules(before, after) == pytest.approx((200 + 20) / 1000)


def test_the_energy_of_one_batch_is_told(root, monkeypatch):
    monkeypatch.setattr(energy, "_SECONDS", 0.05)
    session = Counting(root, 999_999_999)
    assert energy.measure(session, {"x": np.zeros(1)}, root) == pytest.approx(1.0)
    assert session.runs > 1


def test_hardware_that_does_not_tell_is_null_and_costs_no_run(tmp_path):
    session = Counting(tmp_path, 1)
    assert energy.measure(session, {}, tmp_path) is None
    assert energy.measure(session, {}, tmp_path / "missing") is None
    assert session.runs == 0
