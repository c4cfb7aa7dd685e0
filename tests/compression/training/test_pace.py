import pytest

from app.domain.job import EventType
from workers.compression.training.pace import Extent, Pace


class Clock:
    """Stands still but for what is said to have taken so long."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def train(pace, clock, epochs, batches, *, first=0.0, batch=2.0, end=3.0, begin=1):
    """Live through some epochs, the first batch of which takes longer."""
    for epoch in range(begin, epochs + 1):
        pace.begin_epoch(epoch)
        for done in range(1, batches + 1):
            clock.now += batch + first
            first = 0.0
            pace.end_batch(epoch, done)
        clock.now += end
        pace.end_epoch(epoch)


def test_what_is_left_does_not_count_what_only_the_first_batch_took(context, clock):
    pace = Pace(context, Extent(epochs=5, batches=10, judged=1.5), clock)
    train(pace, clock, 1, 10, first=500.0)
    left = pace.left(1, 10, ended=True)
    assert left.epoch_seconds == pytest.approx(23)
    assert left.seconds == pytest.approx(4 * 23)
    pace.begin_epoch(2)
    clock.now += 2.0
    pace.end_batch(2, 1)
    assert pace.left(2, 1).seconds == pytest.approx(4 * 23 - 2)


def test_within_the_first_epoch_judging_is_guessed(context, clock):
    pace = Pace(context, Extent(epochs=2, batches=4, judged=1.5), clock)
    pace.begin_epoch(1)
    assert pace.left(1, 0) is None
    for done in (1, 2):
        clock.now += 2.0
        pace.end_batch(1, done)
    # Six more batches, and a held-out batch and a half, at a third, twice.
    assert pace.left(1, 2).seconds == pytest.approx(6 * 2 + 2 * 1)


def test_a_training_that_goes_on_counts_what_is_left_alone(context, clock):
    pace = Pace(context, Extent(epochs=9, batches=10, judged=0), clock)
    train(pace, clock, 7, 10, begin=7)
    assert pace.left(7, 10, ended=True).seconds == pytest.approx(2 * 23)


def test_fractions_come_a_few_times_a_second_and_with_each_epoch(context, clock, events):
    train(Pace(context, Extent(3, 50, 0), clock), clock, 3, 50, batch=0.01, end=0.0)
    told = [event.data for event in events if event.type == EventType.PROGRESS]
    # Half a second an epoch: its beginning, one in between or two, and its end.
    assert 9 <= len(told) <= 12
    fractions = [data["fraction"] for data in told]
    assert (fractions, fractions[-1]) == (sorted(fractions), 1)
    assert told[-1]["left"].seconds == 0


def test_losses_within_epochs_are_told_ever_more_rarely(context, clock):
    pace = Pace(context, Extent(epochs=1, batches=1_000_000, judged=0), clock)
    pace.begin_epoch(1)
    due = 0
    for done in range(1, 70_001):
        clock.now += 1.0
        if pace.end_batch(1, done):
            due += 1
            pace.tell_loss(1, done, 0.5)
    # Every five seconds for a thousand seconds; then one for each two hundredth that the training has grown by.
    assert 200 < due < 1500
