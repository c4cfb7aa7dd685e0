"""A short form of ``make fuzz``."""

import pytest

from tests.fuzz.__main__ import fuzz


@pytest.mark.timeout(900)
def test_nothing_that_the_document_allows_or_forbids_is_answered_otherwise(tmp_path):
    # As many cases wherever it runs: a limit of time would leave out operations on a slow machine.
    status, said, cases = fuzz(tmp_path, "--max-examples", "1", "--seed", "7")
    assert status == 0, said[-8000:]
    assert cases > 1000
    assert "✅ Stateful" in said, said[-2000:]
