import pytest

from tests.compression.digits import write_digits, write_network
from tests.e2e.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.close()


@pytest.fixture(scope="module")
def digits(service, tmp_path_factory):
    """Upload a network that knows the digits, and the digits; give the ids of both."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "digits.npz")
    write_network(folder / "digits.pt2", epochs=5)
    return service.upload("models", folder / "digits.pt2"), service.upload("datasets", folder / "digits.npz")
