import hashlib
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from app.domain.errors import CheckFailed, UnsupportedNetwork
from app.domain.model import Signature
from tests.compression.quantization.networks import Mobile, Residual, make_network
from workers.compression.formats import onnx as onnx_format
from workers.compression.network import Network


@pytest.fixture(scope="module")
def network():
    return make_network(Residual(), (1, 8, 8))


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx_format.save(network, path)
    return path


def test_names_and_shapes_come_from_the_signature(network, path):
    graph = onnx.load(path).graph
    for values, specs in ((graph.input, network.signature.inputs), (graph.output, network.signature.outputs)):
        assert [value.name for value in values] == [spec.name for spec in specs]
        for value, spec in zip(values, specs, strict=True):
            dims = value.type.tensor_type.shape.dim
            assert tuple(dim.dim_param or dim.dim_value for dim in dims) == spec.shape


def test_a_name_that_an_inner_value_has_is_still_given(network, tmp_path):
    outputs = (network.signature.outputs[0].model_copy(update={"name": "relu"}),)
    renamed = replace(network, signature=Signature(inputs=network.signature.inputs, outputs=outputs))
    onnx_format.save(renamed, tmp_path / "renamed.onnx")
    assert onnx.load(tmp_path / "renamed.onnx").graph.output[0].name == "relu"


class Decibels(nn.Module):
    """Levels of powers, which are none of the numbers below zero and without end at it."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 4)

    def forward(self, x):
        return torch.log(x), torch.log(x.clamp(min=0)), self.mix(x)


def test_what_is_no_number_on_drawn_rows_is_the_same_as_itself(tmp_path):
    network = make_network(Decibels(), (6,))
    outputs = network.module(*network.example_inputs())
    assert outputs[0].isnan().any()
    assert outputs[1].isinf().any()
    onnx_format.save(network, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("batch", [1, 5])
def test_any_batch_gives_what_torch_gives(network, path, batch):
    (x,) = network.example_inputs(batch)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network.module(x).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, rtol=1e-4, atol=1e-5)


def test_the_same_network_gives_the_same_bytes(network, path, tmp_path):
    onnx_format.save(network.clone(), tmp_path / "again.onnx")
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, tmp_path / "again.onnx")}
    assert len(digests) == 1


def test_nothing_of_the_machine_is_inside(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    holders = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.initializer]
    assert not any(holder.metadata_props or holder.doc_string for holder in holders)
    content = path.read_bytes()
    assert not any(word in content for word in (b"site-packages", b".py", b'File "'))
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"], "weights are inside"


def test_means_over_space_become_global_pools(tmp_path):
    onnx_format.save(make_network(Mobile(), (1, 8, 8)), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("GlobalAveragePool") == 2
    assert "ReduceMean" not in operators


def test_several_outputs_keep_their_order(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            hidden = self.linear(x)
            return hidden.sigmoid(), hidden

    network = make_network(Two(), (3,))
    onnx_format.save(network, tmp_path / "two.onnx")
    (x,) = network.example_inputs()
    session = onnxruntime.InferenceSession(str(tmp_path / "two.onnx"), providers=["CPUExecutionProvider"])
    gate, hidden = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(gate, 1 / (1 + np.exp(-hidden)), rtol=1e-5)


def test_an_operator_without_counterpart_is_named(tmp_path):
    class Bessel(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return torch.special.bessel_j0(self.linear(x))

    with pytest.raises(UnsupportedNetwork, match="bessel_j0"):
        onnx_format.save(make_network(Bessel(), (3,)), tmp_path / "bessel.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_kept(network, tmp_path):
    class Liar(Network):
        def export(self):
            other = self.clone()
            other.module.classifier.weight.data.mul_(1.1)
            return Network.export(other)

    liar = Liar(**{name: getattr(network, name) for name in network.__dataclass_fields__})
    with pytest.raises(CheckFailed, match="differs"):
        onnx_format.save(liar, tmp_path / "liar.onnx")
    assert not list(tmp_path.iterdir())
