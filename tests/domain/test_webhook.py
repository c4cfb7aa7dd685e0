import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from app.domain.webhook import GIVEN_UP_AFTER, next_attempt

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_attempts_come_less_and_less_often_for_a_day_and_then_no_more():
    end = NOW + GIVEN_UP_AFTER
    for seed in range(50):
        draw, now, times, attempts = random.Random(seed), NOW, [NOW], 1
        while (following := next_attempt(attempts, now, end, draw)) is not None:
            assert following > now
            now, attempts = following, attempts + 1
            times.append(now)
        assert times[-1] == end
        assert 15 <= len(times) <= 40
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert timedelta(seconds=7.5) <= gaps[0] <= timedelta(seconds=12.5)
        assert max(gaps) <= timedelta(hours=2.5)
        assert all(later > earlier for earlier, later in pairwise(gaps[:9]))


def test_no_two_receivers_are_tried_in_step():
    draws = {next_attempt(5, NOW, NOW + GIVEN_UP_AFTER, random.Random(seed)) for seed in range(20)}
    assert len(draws) == 20


def test_after_very_many_attempts_the_delay_is_still_bounded():
    following = next_attempt(10_000, NOW, NOW + GIVEN_UP_AFTER, random.Random(0))
    assert following <= NOW + timedelta(hours=2.5)
