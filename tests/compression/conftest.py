import pytest
import torch

from tests.compression.digits import write_digits, write_network
from workers.compression.datasets import load_dataset
from workers.compression.formats import pt2
from workers.compression.step import Context

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "digits.npz")
    write_network(folder / "digits.pt2", epochs=10)
    return folder


@pytest.fixture(scope="session")
def digits_network(digits_folder):
    return pt2.load(digits_folder / "digits.pt2")


@pytest.fixture(scope="session")
def digits_data(digits_folder, digits_network):
    return load_dataset(digits_folder / "digits.npz", "npz", digits_network.signature, seed=0)


@pytest.fixture
def events():
    return []


@pytest.fixture
def context(digits_network, digits_data, events, tmp_path):
    return Context(digits_network, digits_data, 0, torch.device("cpu"), events.append, tmp_path)
