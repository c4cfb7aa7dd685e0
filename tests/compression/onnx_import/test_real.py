"""A real network as its authors ship it: the pitch of voices, of any length, between two numbers."""

from importlib.resources import files

import numpy as np
import onnxruntime
import pytest
import torch

from tests.compression.onnx_import.files import taken_in
from workers.compression.inspection import group_layers


@pytest.fixture(scope="module")
def path():
    return files("swift_f0") / "model.onnx"


@pytest.mark.long  # two traces of ten seconds each
def test_a_network_that_a_package_carries_is_read_and_computes_what_it_computes(path):
    network = taken_in(path)
    shapes = {spec.name: spec.shape for spec in network.signature.inputs}
    assert shapes == {"audio": (1, "audio_1"), "fmin": (), "fmax": ()}
    layers = group_layers(network)
    assert sum(layer.parameters for layer in layers) > 50_000
    assert sum(layer.prunable for layer in layers) >= 5
    rng = np.random.default_rng(0)
    hum = np.sin(np.arange(16_000) * 2 * np.pi * 220 / 16_000) + 0.1 * rng.normal(size=16_000)
    rows = {"audio": hum[None].astype("float32"), "fmin": np.array(50, "float32"), "fmax": np.array(2000, "float32")}
    wanted = onnxruntime.InferenceSession(path).run(None, rows)
    with torch.no_grad():
        ours = network.module(*(torch.from_numpy(each) for each in rows.values()))
    for mine, theirs in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    assert abs(np.median(wanted[0]) - 220) < 2, "it hears the tone"
