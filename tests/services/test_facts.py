"""What is remembered of inspections."""

import pytest

from app.services import facts
from app.services.facts import Kept


@pytest.fixture
def kept(monkeypatch):
    """Remember two, of what is read from a list that tells of each reading."""
    monkeypatch.setattr(facts, "_MOST_KEPT", 2)
    read = []

    def look(_, name):
        read.append(name)
        return name.upper()

    return Kept(look), read


def test_each_is_read_once_and_the_one_asked_for_longest_ago_goes(kept):
    found, read = kept
    assert [found.get(None, name) for name in "abab"] == ["A", "B", "A", "B"]
    assert read == ["a", "b"]
    found.get(None, "a")
    found.get(None, "c")
    assert [found.get(None, name) for name in "ac"] == ["A", "C"]
    assert read == ["a", "b", "c"]
    assert found.get(None, "b") == "B"
    assert read == ["a", "b", "c", "b"]


def test_what_could_not_be_read_is_not_remembered():
    answers = iter([ValueError("away"), "there"])

    def look(*_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = Kept(look)
    with pytest.raises(ValueError, match="away"):
        found.get(None, "a")
    assert found.get(None, "a") == "there"
