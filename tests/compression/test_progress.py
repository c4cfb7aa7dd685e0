import pytest

from app.domain.job import EventType, Stage
from app.domain.task import EventMessage
from workers.compression.progress import Tracker


def fraction(value):
    return EventMessage(type=EventType.PROGRESS, data={"fraction": value, "message": "working"})


def test_parts_add_up_by_weight():
    events = []
    tracker = Tracker(events.append, [1, 3])
    with tracker.part(Stage.BASELINE, "first"):
        pass
    with tracker.part(Stage.PRUNING, "second"):
        tracker._told_at = float("-inf")
        tracker(fraction(0.5))
    told = [event.data["fraction"] for event in events if event.type == EventType.PROGRESS]
    assert told == [0, 0.25, 0.25, 0.625, 1]
    assert [event.data["stage"] for event in events if event.type == EventType.STAGE] == ["baseline", "pruning"]


def test_progress_is_told_rarely_and_all_else_at_once():
    events = []
    tracker = Tracker(events.append, [1])
    log = EventMessage(type=EventType.LOG, data={"level": "info", "message": "hello"})
    with tracker.part(Stage.PRUNING, "step"):
        for _ in range(100):
            tracker(fraction(0.5))
        tracker(log)
    assert len(events) < 6
    assert log in events


def test_a_part_that_fails_does_not_count_as_done():
    events = []
    tracker = Tracker(events.append, [1, 1])
    with pytest.raises(RuntimeError), tracker.part(Stage.PRUNING, "step"):
        raise RuntimeError
    assert events[-1].data["fraction"] == 0
