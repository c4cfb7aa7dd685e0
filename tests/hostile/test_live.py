"""The short form of what ``python -m tests.hostile`` sends through a live service."""

import pytest

from tests.e2e.service import Service
from tests.hostile.corpus import write_real
from tests.hostile.crafted import make_all
from tests.hostile.labels import make_labels
from tests.hostile.live import run_live

EVERY = 8
"""One file in so many: those of one kind stand beside each other."""


@pytest.mark.timeout(300)
def test_hostile_uploads_end_as_problems_or_rejected_and_no_part_dies(tmp_path):
    (tmp_path / "corpus").mkdir()
    corpus = tmp_path / "corpus"
    made = [*make_all(corpus, write_real(corpus)["pt2"]), *make_labels(corpus)]
    service = Service(tmp_path / "data")
    try:
        ends = run_live(service, made[::EVERY])
    finally:
        service.close()
    assert ends.total() == len(made[::EVERY])
    assert len(ends) >= 5  # refused for what is wrong with each, not all for one thing
