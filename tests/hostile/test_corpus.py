"""The short form of ``python -m tests.hostile``."""

import json

import pytest
import torch

from app.domain.errors import WinnowError
from tests.hostile.__main__ import REASONS
from tests.hostile.corpus import Tally, peak_bytes, run_crafted, run_labels, run_mutations, write_real
from tests.hostile.mutations import mutate
from tests.hostile.rezip import read_members, write_members
from workers.compression.admission import admit

MORE_MEMORY_BYTES = 512 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.set_num_threads(1)
    return write_real(tmp_path_factory.mktemp("real"))


def test_what_the_corpus_is_made_from_is_admitted(files, tmp_path):
    for kind, path in files.items():
        admit(path, kind)
    root, members = read_members(files["pt2"])
    write_members(tmp_path / "again.pt2", members, root)
    admit(tmp_path / "again.pt2", "pt2")


def test_each_crafted_file_is_refused_for_what_is_wrong_with_it(files, tmp_path):
    marker = tmp_path / "marker"
    tally, before = Tally(), peak_bytes()
    run_crafted(tally, tmp_path, files["pt2"], marker)
    assert tally.passed == []
    assert tally.reasons == json.loads(REASONS.read_text())
    assert not marker.exists()
    assert peak_bytes() - before < MORE_MEMORY_BYTES


def test_wrong_labels_end_in_a_refusal(tmp_path):
    tally = Tally()
    run_labels(tally, tmp_path)
    assert tally.passed == []


def test_damaged_files_are_refused_or_do_no_harm(files, tmp_path):
    tally, before = Tally(), peak_bytes()
    run_mutations(tally, tmp_path, files, 80)
    assert tally.files == 80 * len(files)
    assert peak_bytes() - before < MORE_MEMORY_BYTES
    assert sum(after["unchanged"] + after["changed"] for after in tally.after.values()) == len(tally.passed)
    # Zips have a checksum for every member, and Parquet's pages one; for the others an upload's Repr-Digest must do.
    assert {kind for kind in files if tally.after[f"mutated .{kind}"]["changed"]} == {"onnx", "safetensors", "tar"}
    assert tally.after["mutated .onnx"]["harmless"] > 0


def test_a_damaged_archive_that_passes_holds_what_it_held(files, tmp_path):
    """Only bytes without meaning, such as a member's date, may change unseen."""
    content, passed = files["pt2"].read_bytes(), 0
    _, members = read_members(files["pt2"])
    for seed in range(200):
        path = tmp_path / "damaged.pt2"
        path.write_bytes(mutate(content, seed))
        try:
            admit(path, "pt2")
        except WinnowError:
            continue
        passed += 1
        assert read_members(path)[1] == members
    assert passed < 30
