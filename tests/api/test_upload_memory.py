"""The short form of ``python -m benchmarks.upload``."""

from benchmarks.upload import MEBIBYTE, measure


def test_memory_does_not_grow_with_the_file(tmp_path):
    figures = measure(tmp_path, 128)
    assert figures.start_bytes < 150e6
    assert figures.growth_bytes < 64 * MEBIBYTE
