"""A network uploaded as an ONNX file, over HTTP from its inspection to its report, and by the client's command."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from tests.compression.digits import write_digits, write_network
from tests.compression.onnx_import.files import by_tracing, run
from tests.e2e.service import OCTETS
from workers.compression.formats import pt2

RECIPE = [{"method": "prune", "amount": 0.25}, {"method": "quantize", "scheme": "static", "samples": 64}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a network that knows the digits, as ONNX with the batch of one row that most files have, and as .pt2."""
    folder = tmp_path_factory.mktemp("files")
    write_digits(folder / "digits.npz")
    write_network(folder / "digits.pt2", epochs=4)
    network = pt2.load(folder / "digits.pt2").module
    by_tracing(network, (torch.zeros(1, 1, 8, 8),), folder / "digits.onnx", dynamic=None)
    return folder


def test_an_onnx_file_is_inspected_and_told_as_the_pt2_is(service, folder):
    content = (folder / "digits.onnx").read_bytes()
    model, same = (service.upload("models", folder / f"digits.{suffix}") for suffix in ("onnx", "pt2"))
    shown = service.get(f"models/{model}")
    assert (shown["format"], shown["trainable"]) == ("onnx", True)
    assert shown["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert shown["macs"] == service.get(f"models/{same}")["macs"]
    assert shown["parameters"] == sum(
        layer["parameters"] for layer in service.get(f"models/{model}/layers")["items"]
    )  # fmt: skip
    groups = {layer["name"]: layer["group"] for layer in service.get(f"models/{model}/layers")["items"]}
    assert groups == {"conv1": "g1", "conv2": "g2", "fc": None}
    assert service.client.get(f"models/{model}/content").content == content


def test_a_wrong_assertion_of_the_format_is_refused(service, folder):
    content = (folder / "digits.onnx").read_bytes()
    answer = service.client.post("models", params={"name": "n", "format": "pt2"}, content=content, headers=OCTETS)
    assert answer.status_code == 415
    assert answer.json()["detail"] == "The file is onnx, not pt2 as the query says."


def test_the_command_compresses_an_onnx_file_and_the_report_judges_that_very_file(service, folder, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    environment = os.environ | {
        "WINNOW_URL": f"http://127.0.0.1:{service.port}",
        "WINNOW_KEY": (service.data / "admin.key").read_text().strip(),
    }
    files = [str(folder / "digits.onnx"), str(folder / "digits.npz")]
    command = [sys.executable, "-m", "winnow", "compress", *files, "--recipe", str(tmp_path / "recipe.json")]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    operators = {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert "DequantizeLinear" in operators
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["delta"]["size_ratio"] > 1
    with np.load(folder / "digits.npz") as rows:
        x, y = rows["validation.x"], rows["validation.y"]
    right = [run(folder / "digits.onnx", [row[None]])[0].argmax() == label for row, label in zip(x, y, strict=True)]
    assert report["baseline"]["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert np.mean(right) > 0.8
