"""An ONNX file as a network that is known to compute what the file computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from app.domain.errors import CorruptFile, UnsupportedNetwork, WinnowError
from workers.compression.formats.onnx import relative_error
from workers.compression.formats.onnx_import.folding import fold
from workers.compression.formats.onnx_import.graph import Array, Graph, read_graph
from workers.compression.formats.onnx_import.refusals import check_operators
from workers.compression.formats.onnx_import.rewriting import rewrite
from workers.compression.formats.onnx_import.tracing import Trial, trace, trials
from workers.compression.inference import all_outputs
from workers.compression.network import Network

MAX_RELATIVE_ERROR = 1e-4
"""Of an output's norm: how far sums in another order may be from ONNX Runtime's."""
CHECKED_ROWS = 3
_REPORT = "Export the network with torch.export as .pt2, and report which operators the ONNX file holds."


class _Differs(UnsupportedNetwork):
    """What was read computes something else than the file."""


def load(path: Path) -> Network:
    """Read a file that was admitted, and compare what was read with the file in ONNX Runtime on example rows.

    Raises:
        CorruptFile: the file is damaged, or the runtime refuses it.
        UnsupportedNetwork: it does something that no :class:`Network` can, or something else than what was read.
    """
    try:
        return _read(path)
    except (WinnowError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedNetwork(f"The ONNX graph cannot be taken apart: {_first_line(error)}") from error


def _read(path: Path) -> Network:
    graph = fold(read_graph(path))
    check_operators(graph)
    graph = fold(rewrite(graph))
    session = _session(path)
    fault: Exception | None = None
    for trial in trials(graph, session):
        try:
            network = trace(graph, trial)
            _compare(network, graph, session, trial)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - torch, numpy and the runtime have no root for their errors
            fault = error
        else:
            return network
    assert fault is not None
    if isinstance(fault, WinnowError):
        raise fault
    raise UnsupportedNetwork(f"The ONNX graph cannot be traced: {_first_line(fault)}") from fault


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as fault:
        # The runtime has an exception for each of its status codes, and no root for them.
        raise CorruptFile(f"ONNX Runtime cannot run the file: {_first_line(fault)}") from fault


def _compare(network: Network, graph: Graph, session: onnxruntime.InferenceSession, trial: Trial) -> None:
    """Raise where outputs differ on example rows; rows of a freed batch are run through the file one by one."""
    inputs = [tensor.numpy() for tensor in network.example_inputs(CHECKED_ROWS)]
    with torch.no_grad():
        ours = [output.numpy() for output in all_outputs(copy.copy(network.module)(*map(torch.from_numpy, inputs)))]
    batches = (
        [[each[row : row + 1] for each in inputs] for row in range(CHECKED_ROWS)] if trial.frees_batch else [inputs]
    )
    names = [each.name for each in graph.inputs]
    runs: list[Sequence[Array]] = [session.run(None, dict(zip(names, rows, strict=True))) for rows in batches]
    for spec, mine, parts in zip(network.signature.outputs, ours, zip(*runs, strict=True), strict=True):
        theirs = np.concatenate(parts) if trial.frees_batch else parts[0]
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            raise _Differs(
                f"Output {spec.name} is {mine.dtype}{list(mine.shape)} as it was read,"
                f" {theirs.dtype}{list(theirs.shape)} in ONNX Runtime.",
                hint=_REPORT,
            )
        error = relative_error(theirs, mine)
        if not error <= MAX_RELATIVE_ERROR:
            raise _Differs(
                f"Output {spec.name} differs by {error:.2g} of its norm from what ONNX Runtime computes of the file.",
                hint=_REPORT,
            )


def _first_line(fault: Exception) -> str:
    return next(iter(str(fault).strip().splitlines()), type(fault).__name__)
