"""The short form of ``python -m benchmarks.upload``."""

import pytest

from benchmarks.upload import MEBIBYTE, measure


@pytest.mark.parametrize("twice", [False, True], ids=["once", "again under its key"])
def test_memory_does_not_grow_with_the_file(tmp_path, twice):
    figures = measure(tmp_path, 128, twice=twice)
    assert figures.start_bytes < 150e6
    assert figures.growth_bytes < 64 * MEBIBYTE
