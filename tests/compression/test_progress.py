import pytest

from app.domain.job import EventType, Stage
from app.domain.task import EventMessage
from workers.compression.progress import Expected, Tracker
from workers.compression.step import Left


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
    tracker = Tracker(events.append, [1], Clock())
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


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


def live(parts, expected):
    """Run a job whose parts take so long, by a clock of its own; a number in a list is an epoch of that many seconds.

    Give what was told to be left, and when, and when it was over.
    """
    clock, told = Clock(), []

    def send(event):
        if event.type == EventType.PROGRESS:
            told.append((clock.now, event.data.get("eta_seconds")))

    tracker = Tracker(send, [1] * len(parts), clock)
    for place, part in enumerate(parts):
        with tracker.part(Stage.PRUNING, "part"):
            if place == 0:
                clock.now += part
                tracker.expect(expected)
            elif isinstance(part, list):
                clock.now += 4  # what stands before the epochs
                for epoch, seconds in enumerate(part, 1):
                    clock.now += seconds
                    left = Left(seconds * (len(part) - epoch), seconds)
                    tracker(EventMessage(type=EventType.PROGRESS, data={"fraction": 0.1, "message": "", "left": left}))
                clock.now += 1  # what stands behind them
            else:
                clock.now += part
    return told, clock.now


def test_what_is_left_is_known_from_the_first_epoch_on():
    # Durations of a job that pruned, distilled and quantized network F.
    expected = [
        Expected(0),
        Expected(0.2),
        Expected(1.5, 3),
        Expected(2),
        Expected(6),
        Expected(1),
        Expected(4),
        Expected(0),
    ]
    told, end = live([3.7, 0.1, [4.2, 4.5, 4.5], 2.2, 6.8, 0.3, 3.4, 0.1], expected)
    # Before anything has trained nobody knows, and the end of the first part is the first that can be told.
    first = next(place for place, (_, seconds) in enumerate(told) if seconds is not None)
    assert [seconds for _, seconds in told[:first]] == [None] * first
    assert told[first][0] == pytest.approx(50 + 3.7 + 0.1 + 4 + 4.2)
    for at, seconds in told[first : first + 3]:
        assert seconds == pytest.approx(end - at, rel=0.3)
    assert told[-1][1] == 0


def test_an_epoch_tells_of_those_of_later_steps():
    expected = [Expected(0), Expected(0, 2), Expected(1), Expected(0, 10)]
    told, end = live([1, [3, 3], 1, [3] * 10], expected)
    known = [(at, seconds) for at, seconds in told if seconds is not None]
    assert known[0][0] == 50 + 1 + 4 + 3
    early = [(at, seconds) for at, seconds in known if end - at > 10]
    assert len(early) > 8
    assert all(seconds == pytest.approx(end - at, rel=0.3) for at, seconds in early)


def test_epochs_of_a_smaller_network_are_shorter():
    expected = [Expected(0), Expected(5, 2), Expected(1, 0, 0.5), Expected(5, 10, 0.5), Expected(5, 4, 0.25)]
    told, end = live([1, [60, 60], 1, [30] * 10, [15] * 4], expected)
    known = [(at, seconds) for at, seconds in told if seconds is not None]
    early = [(at, seconds) for at, seconds in known if end - at > 10]
    assert len(early) > 8
    assert all(seconds == pytest.approx(end - at, rel=0.3) for at, seconds in early)


def test_a_job_without_epochs_tells_at_once():
    told, _ = live([1, 2, 3], [Expected(0), Expected(2), Expected(3)])
    assert [seconds for _, seconds in told] == [None, 5, 5, 3, 3, 0]
