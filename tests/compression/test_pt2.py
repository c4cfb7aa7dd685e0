import os
import subprocess
import sys
import zipfile

import pytest
import torch

from app.domain.errors import CorruptFile
from tests.compression.networks import ResNet, export, make
from workers.compression.formats import pt2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("pt2") / "resnet.pt2"
    torch.export.save(export(ResNet()), file)
    return file


def test_a_saved_network_reloads_to_the_same_bits(path, tmp_path):
    network = pt2.load(path)
    pt2.save(network, tmp_path / "again.pt2")
    again = pt2.load(tmp_path / "again.pt2")
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(torch.export.load(path).module()(x), network.module(x))
        assert torch.equal(network.module(x), again.module(x))
    assert again.signature == network.signature


def test_the_same_network_gives_the_same_bytes(tmp_path):
    network = make("resnet")
    pt2.save(network, tmp_path / "one.pt2")
    pt2.save(network.clone(), tmp_path / "two.pt2")
    assert (tmp_path / "one.pt2").read_bytes() == (tmp_path / "two.pt2").read_bytes()


def test_the_same_network_gives_the_same_bytes_in_another_process(path, tmp_path):
    program = (
        "import sys; from pathlib import Path; from workers.compression.formats import pt2;"
        "pt2.save(pt2.load(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    # What a process has exported or compiled before may show in names that torch gives: jobs have a process each.
    for seed, name in (("1", "one.pt2"), ("2", "two.pt2")):
        command = [sys.executable, "-c", program, path, tmp_path / name]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    assert (tmp_path / "one.pt2").read_bytes() == (tmp_path / "two.pt2").read_bytes()


def test_a_saved_network_names_no_folder_of_this_machine(tmp_path):
    pt2.save(make("mlp"), tmp_path / "mlp.pt2")
    with zipfile.ZipFile(tmp_path / "mlp.pt2") as archive:
        assert not any(b"/networks.py" in archive.read(name) or b"site-packages" in archive.read(name)
                       for name in archive.namelist())  # fmt: skip


def test_flipped_weight_bytes_are_noticed(path, tmp_path):
    with zipfile.ZipFile(path) as archive:
        member = next(info for info in archive.infolist() if info.filename.endswith("weights/weight_0"))
    content = bytearray(path.read_bytes())
    content[member.header_offset + 200] ^= 0xFF
    (tmp_path / "flipped.pt2").write_bytes(content)
    with pytest.raises(CorruptFile, match="weight_0"):
        pt2.load(tmp_path / "flipped.pt2")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_corrupt(path, tmp_path, share):
    content = path.read_bytes()
    (tmp_path / "cut.pt2").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptFile):
        pt2.load(tmp_path / "cut.pt2")


def test_an_archive_of_something_else_is_corrupt(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CorruptFile, match="exported program"):
        pt2.load(tmp_path / "other.pt2")
