import pytest

from tests.compression.digits import write_network
from workers.compression.formats import pt2


@pytest.fixture
def untrained(tmp_path):
    write_network(tmp_path / "untrained.pt2", epochs=0)
    return pt2.load(tmp_path / "untrained.pt2")
