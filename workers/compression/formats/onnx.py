"""Networks as ONNX files: one file, the same bytes for the same network, nothing of the machine inside."""

import contextlib
import copy
import io
import itertools
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from app.domain.errors import CheckFailed, UnsupportedNetwork
from app.domain.model import Signature, TensorSpec
from workers.compression.formats.onnx_float_layers import keep_in_float
from workers.compression.formats.onnx_padding import fold_padding
from workers.compression.inference import all_outputs
from workers.compression.network import Network
from workers.compression.quantization.stored import UNFOLDED, StoredLayer

MAX_BYTES = 2**31 - 1
"""Protobuf's own limit on a message."""
PRODUCER = "winnow"
CHECK_BATCH = 2
# Float kernels differ in the order of sums; in a quantized network that moves a few values by one quantum.
MAX_RELATIVE_ERROR = 1e-3
MAX_RELATIVE_ERROR_QUANTIZED = 5e-2


def save(network: Network, path: Path) -> None:
    """Write ``network`` as one ONNX file and make sure that it computes what the network computes.

    Raises:
        UnsupportedNetwork: an operator has no ONNX counterpart, or the file would exceed 2 GB.
        CheckFailed: the file is invalid, or ONNX Runtime's outputs differ from torch's.
    """
    inputs = network.example_inputs(CHECK_BATCH)
    before = _outputs(network, inputs)
    model = _convert(network)
    _clean(model, network.signature)
    # The exporter has been seen to leave a network in training mode: the same rows must give the same again, and what
    # is no number for drawn rows, as a logarithm of them, is none again.
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, _outputs(network, inputs), strict=True)):
        raise CheckFailed("Writing ONNX changed the network's own outputs.")
    content = model.SerializeToString(deterministic=True)
    if len(content) > MAX_BYTES:
        raise UnsupportedNetwork(f"The ONNX file would have {len(content)} bytes; a single file holds at most 2 GB.")
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"The ONNX file is invalid: {error}") from error
    _check_outputs(content, network, inputs, before)
    path.write_bytes(content)


def _convert(network: Network) -> onnx.ModelProto:
    program = _for_runtime(network).export()
    _settle_attention(program)
    with exporter_quiet():
        try:
            converted = torch.onnx.export(program, (), dynamo=True, verbose=False, external_data=False)
        except torch.onnx.errors.OnnxExporterError as error:
            cause = error.__cause__ or error
            raise UnsupportedNetwork(f"The network has no ONNX form: {str(cause).splitlines()[0]}") from error
    assert converted is not None
    model: onnx.ModelProto = converted.model_proto
    return model


def _for_runtime(network: Network) -> Network:
    """Put the operators in place that ONNX Runtime has kernels for."""
    stored = {name: part for name, part in network.module.named_modules() if isinstance(part, StoredLayer)}
    if not stored:
        return network
    # Shares all tensors with the caller's module, which keeps its own graph and layers.
    module = copy.deepcopy(network.module, {id(value): value for value in network.module.state_dict().values()})
    for name, part in stored.items():
        module.set_submodule(name, part.for_runtime())
    return replace(network, module=module)


def _settle_attention(program: torch.export.ExportedProgram) -> None:
    """Make a plain copy behind each fused attention; in ONNX it costs nothing.

    The fused operator lays its output out otherwise than what the exporter puts in its place, and
    a view that was right behind the one is refused behind the other.
    """
    graph = program.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default):
        with graph.inserting_after(node):
            plain = graph.call_function(
                torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
            )
        plain.meta = dict(node.meta)
        node.replace_all_uses_with(plain, delete_user_cb=lambda user, plain=plain: user is not plain)


@contextlib.contextmanager
def exporter_quiet() -> Iterator[None]:
    """Silence the exporter: it prints, logs missing torchvision and warns about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _clean(model: onnx.ModelProto, signature: Signature) -> None:
    """Rewrite what the runtime would, name inputs and outputs after the signature, drop what names paths and source."""
    graph = model.graph
    fold_padding(graph)
    _restore_global_pools(graph)
    keep_in_float(graph)
    _name_standard_operators(model)
    for values, specs in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        for value, spec in zip(values, specs, strict=True):
            _rename(graph, value.name, spec.name)
            _set_shape(value, spec)
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    # Inner shapes carry the exporter's own symbols; every runtime infers them anew.
    del graph.value_info[:]
    model.producer_name, model.producer_version = PRODUCER, ""


def _name_standard_operators(model: onnx.ModelProto) -> None:
    """Give operators that were hidden from constant folding the standard's domain."""
    for node in model.graph.node:
        if node.domain == UNFOLDED:
            node.domain = ""
    kept = [entry for entry in model.opset_import if entry.domain != UNFOLDED]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _restore_global_pools(graph: onnx.GraphProto) -> None:
    """Turn means over all spatial dimensions back into GlobalAveragePool.

    The exporter decomposes pools into ReduceMean, for which ONNX Runtime has no integer kernel.
    """
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in itertools.chain(graph.input, graph.value_info, graph.output)
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
            continue
        rank = ranks.get(node.input[0], 0)
        axes = {int(axis) % rank for axis in onnx.numpy_helper.to_array(constants[node.input[1]])} if rank else set()
        if rank < 3 or axes != set(range(2, rank)):
            continue
        keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        source, result = node.input[0], node.output[0]
        pooled = result if keep else f"{result}_pooled"
        del graph.node[index]
        graph.node.insert(index, onnx.helper.make_node("GlobalAveragePool", [source], [pooled], name=node.name))
        if not keep:
            _insert_flatten(graph, pooled, result)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _insert_flatten(graph: onnx.GraphProto, pooled: str, result: str) -> None:
    """Turn ``pooled`` (rows, channels, 1, …) into ``result`` (rows, channels).

    Where the result is quantized, the integers are flattened: the pool's pair stays beside the pool and fuses.
    """
    readers = [node for node in graph.node if result in node.input]
    source, flat = pooled, result
    if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
        flat = readers[0].output[0]
        source = readers[0].output[0] = f"{flat}_pooled"
        readers[0].input[0] = pooled
    writer = next(index for index, node in enumerate(graph.node) if source in node.output)
    flatten = onnx.helper.make_node("Flatten", [source], [flat], name=f"{flat}_flatten", axis=1)
    graph.node.insert(writer + 1, flatten)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    if old == new:
        return
    # A value inside that has the name already gives way.
    table = {old: new, new: f"{new}_inner"}
    for node in graph.node:
        node.input[:] = [table.get(name, name) for name in node.input]
        node.output[:] = [table.get(name, name) for name in node.output]
    for holder in itertools.chain(graph.input, graph.output, graph.initializer):
        holder.name = table.get(holder.name, holder.name)


def _set_shape(value: onnx.ValueInfoProto, spec: TensorSpec) -> None:
    for dimension, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
        if isinstance(size, str):
            dimension.dim_param = size
        else:
            dimension.dim_value = size


def _outputs(network: Network, inputs: tuple[torch.Tensor, ...]) -> list[NDArray[np.generic]]:
    with torch.no_grad():
        outputs = network.module(*inputs)
    return [output.detach().cpu().numpy() for output in all_outputs(outputs)]


def _check_outputs(
    content: bytes, network: Network, inputs: tuple[torch.Tensor, ...], expected: list[NDArray[np.generic]]
) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Unfused, integers are computed as torch computes them; kernels that saturate are for the accuracy to judge.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as fault:
        # The runtime has an exception for each of its status codes, and no root for them.
        raise UnsupportedNetwork(f"ONNX Runtime cannot run the network: {fault}") from fault
    names = (spec.name for spec in network.signature.inputs)
    results = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    limit = MAX_RELATIVE_ERROR_QUANTIZED if network.quantized else MAX_RELATIVE_ERROR
    for spec, ours, theirs in zip(network.signature.outputs, expected, results, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise CheckFailed(
                f"Output {spec.name} is {theirs.dtype}{theirs.shape} in ONNX, {ours.dtype}{ours.shape} in torch."
            )
        error = relative_error(ours, theirs)
        if not error <= limit:
            raise CheckFailed(f"Output {spec.name} differs by {error:.2g} of its norm between torch and ONNX Runtime.")


def relative_error(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> float:
    """Give ‖actual − expected‖ / ‖expected‖; infinite or NaN values in the same places count as equal."""
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):  # two infinities, which are the same, have no difference
        difference = float(np.linalg.norm(np.where(same, 0.0, a - b)))
    size = float(np.linalg.norm(np.where(same & ~np.isfinite(a), 0.0, a)))
    return difference / max(size, 1e-12)
