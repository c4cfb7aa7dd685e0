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


@pytest.mark.parametrize(("value", "kept"), [(0.5, 0.5), (float("nan"), None), (float("inf"), None)])
def test_a_metric_that_is_no_number_is_kept_as_none_and_breaks_nothing(journal, value, kept):
    told = EventMessage(type=EventType.METRIC, data={"name": "r2", "step": 1, "value": value})
    journal.hear(EventMessage.model_validate_json(told.model_dump_json()))  # as it comes through the pipe
    journal.hear(told)
    assert [data["value"] for _, data, _ in journal._pending] == [kept, kept]


def test_a_metric_without_a_value_breaks_the_protocol(journal):
    with pytest.raises(ProtocolBreach):
        journal.hear(EventMessage(type=EventType.METRIC, data={"name": "r2", "step": 1}))
