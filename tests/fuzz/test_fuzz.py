"""A short form of ``make fuzz``."""

import pytest

from tests.fuzz.__main__ import fuzz


@pytest.mark.timeout(200)
def test_nothing_that_the_document_allows_or_forbids_is_answered_otherwise(tmp_path):
    status, said, cases = fuzz(tmp_path, "--max-examples", "1", "--max-time", "30", "--seed", "7")
    assert status == 0, said[-8000:]
    assert cases > 300
    assert "✅ Stateful" in said, said[-2000:]
