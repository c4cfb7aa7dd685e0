import io

import pytest

from app.domain.job import EventType
from app.domain.task import EventMessage
from workers.journal import Journal
from workers.sandbox import ProtocolBreach


@pytest.fixture
def journal():
    return Journal(None, "job_1", 1, io.BytesIO())


def tell(journal, **data):
    journal.hear(EventMessage(type=EventType.PROGRESS, data={"fraction": 0.5, "message": "half", **data}))
    return journal._pending[-1][1]


def test_the_engines_own_estimate_is_taken(journal):
    assert tell(journal, eta_seconds=12.345)["eta_seconds"] == 12.3
    # It knows that it cannot know yet.
    assert tell(journal, eta_seconds=None)["eta_seconds"] is None


def test_without_one_the_share_that_is_done_is_what_there_is(journal):
    journal._began -= 30
    assert tell(journal)["eta_seconds"] == pytest.approx(30, abs=1)
    assert "eta_seconds" not in tell(journal, fraction=0.01)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "soon"])
def test_an_estimate_that_is_no_number_of_seconds_breaks_the_protocol(journal, seconds):
    with pytest.raises(ProtocolBreach):
        tell(journal, eta_seconds=seconds)
