"""ONNX files as exporters write them, and small ones made by hand."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from workers.compression.admission import admit
from workers.compression.formats.models import load_model
from workers.compression.formats.onnx import exporter_quiet

KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL, "int32": TensorProto.INT32}


def by_dynamo(module, inputs, path):
    """Export as ``torch.onnx.export`` does by default, with a dynamic batch."""
    shapes = tuple({0: Dim("batch")} for _ in inputs)
    with exporter_quiet():
        torch.onnx.export(
            module, inputs, path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
        )  # fmt: skip


def by_tracing(module, inputs, path, *, opset=17, names=("x",), dynamic=("batch",)):
    """Export as ``torch.onnx.export`` did for years; without ``dynamic``, all sizes are fixed."""
    axes = {name: dict(enumerate(dynamic)) for name in names} if dynamic else None
    with exporter_quiet():
        torch.onnx.export(
            module, inputs, path, dynamo=False, opset_version=opset, input_names=list(names), dynamic_axes=axes
        )  # fmt: skip


def by_hand(path, nodes, inputs, outputs, weights=None, *, opset=18):
    """Write a graph of ``nodes``; ``inputs`` give shapes, or dtype and shape, by name; outputs are float32."""
    described = []
    for name, given in inputs.items():
        dtype, shape = given if isinstance(given, tuple) else ("float32", given)
        described.append(helper.make_tensor_value_info(name, KINDS[dtype], shape))
    results = [
        helper.make_tensor_value_info(name, KINDS[dtype], None)
        for name, dtype in (outputs if isinstance(outputs, dict) else dict.fromkeys(outputs, "float32")).items()
    ]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "by_hand", described, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):  # what is inferred for no operator of functions
            value.type.CopyFrom(model.graph.input[0].type)
    path.write_bytes(model.SerializeToString())


def taken_in(path):
    """Admit and read a file as the service does; what was read has been compared with the runtime then."""
    admit(path, "onnx")
    return load_model(path, "onnx")


def run(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, [np.asarray(each) for each in inputs], strict=True)))


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=f"a_{op.lower()}", **attributes)


__all__ = ["by_dynamo", "by_hand", "by_tracing", "node", "onnx", "run", "taken_in"]
