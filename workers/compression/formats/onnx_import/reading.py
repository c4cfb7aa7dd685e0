"""An ONNX file as a network that is known to compute what the file computes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from app.domain.errors import CorruptFile, UnsupportedNetwork, WinnowError
from workers.compression.examples import table_rows
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
_SHOWN = 0.7
"""Of a mask, in the comparison."""
FACTORS = (1 / 256, 1 / 16, 1 / 4, 2, 16)
"""Of the sizes that were traced, where they are dynamic."""
MOST_VALUES = 1 << 17
"""Of the inputs of such a comparison."""
_REPORT = "Export the network with torch.export as .pt2, and report which operators the ONNX file holds."


class _Differs(UnsupportedNetwork):
    """What was read computes something else than the file."""


def load(path: Path) -> Network:
    """Read a file that was admitted, and compare what was read with the file in ONNX Runtime on example rows.

    Raises:
        CorruptFile: the file is damaged, or the runtime refuses it.
        UnsupportedNetwork: it does something that no :class:`Network` can, or something else than what was read.
    """
    return find(path)[0]


def find(path: Path) -> tuple[Network, int]:
    """Read as :func:`load` does, and tell which of the ways to trace it held, for :func:`load_again`."""
    with _in_our_words():
        graph, session = _open(path)
        fault: Exception | None = None
        for way, trial in enumerate(trials(graph, session)):
            try:
                network = trace(graph, trial).with_outputs([told.name for told in session.get_outputs()])
                _compare(network, graph, session, trial)
                _compare_sizes(network, graph, session)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - torch, numpy and the runtime have no root for their errors
                fault = error
            else:
                return network, way
        assert fault is not None
        if isinstance(fault, WinnowError):
            raise fault
        raise UnsupportedNetwork(f"The ONNX graph cannot be traced: {_first_line(fault)}") from fault


def load_again(path: Path, way: int) -> Network:
    """Read a file that :func:`find` has read, with one trace, comparing it at the sizes of that trace alone."""
    with _in_our_words():
        graph, session = _open(path)
        trial = next(itertools.islice(trials(graph, session), way, None))
        network = trace(graph, trial).with_outputs([told.name for told in session.get_outputs()])
        _compare(network, graph, session, trial)
        return network


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except (WinnowError, MemoryError):
        raise
    except Exception as error:
        raise UnsupportedNetwork(f"The ONNX graph cannot be taken apart: {_first_line(error)}") from error


def _open(path: Path) -> tuple[Graph, onnxruntime.InferenceSession]:
    graph = fold(read_graph(path))
    check_operators(graph)
    return fold(rewrite(graph)), _session(path)


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
    """Raise where outputs differ on example rows; rows of a freed batch are run through the file one by one.

    The rows come twice, for a mask that hides nothing shows nothing of where it goes.
    """
    names = [each.name for each in graph.inputs]
    inputs = [tensor.numpy() for tensor in network.example_inputs(CHECKED_ROWS)]
    _check(network, _outputs(network, inputs), _theirs(session, names, inputs, trial))
    masked = _with_zeros(network, inputs)
    if not all(map(np.array_equal, inputs, masked)):
        try:
            theirs = _theirs(session, names, masked, trial)
        except Exception:  # noqa: BLE001 - the file takes no zeros; the runtime has no root for its errors
            return
        if all(np.isfinite(each).all() for each in theirs):
            _check(network, _outputs(network, masked), theirs)


def _theirs(
    session: onnxruntime.InferenceSession, names: Sequence[str], inputs: Sequence[Array], trial: Trial
) -> list[Array]:
    batches = [[each[at : at + 1] for each in inputs] for at in range(CHECKED_ROWS)] if trial.frees_batch else [inputs]
    runs: list[Sequence[Array]] = [session.run(None, dict(zip(names, rows, strict=True))) for rows in batches]
    return [np.concatenate(parts) if trial.frees_batch else parts[0] for parts in zip(*runs, strict=True)]


def _with_zeros(network: Network, inputs: Sequence[Array]) -> list[Array]:
    """Put zeros, other ones in each row, into whole numbers that pick from no table; the first of a row stays."""
    generator = np.random.default_rng(0)
    found = []
    for node, each in zip(network.module.graph.find_nodes(op="placeholder"), inputs, strict=True):
        if each.ndim and each.dtype.kind in "biu" and table_rows(network.module, node) is None:
            kept = generator.random(each.shape) < _SHOWN
            kept[..., 0] = True
            found.append(np.where(kept, each, 0).astype(each.dtype))
        else:
            found.append(each)
    return found


def _compare_sizes(network: Network, graph: Graph, session: onnxruntime.InferenceSession) -> None:
    """Raise where outputs differ at other sizes: tracing goes one way through the graph, and all must lead there."""
    names = [each.name for each in graph.inputs]
    for sizes in _other_sizes(network):
        inputs = [tensor.numpy() for tensor in replace(network, sizes=sizes).example_inputs(1)]
        try:
            theirs = session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception:  # noqa: BLE001, S112 - the file itself holds for no such size; the runtime has no root for its errors
            continue
        try:
            _check(network, _outputs(network, inputs), theirs)
        except Exception as fault:
            raise _Differs(
                f"The network goes another way through its graph for inputs of {_told(sizes)} than for"
                f" {_told(network.sizes)}: {_first_line(fault)}",
                hint="Export it with fixed sizes but for the batch.",
            ) from fault


def _told(sizes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(str(list(each)) for each in sizes)


def _other_sizes(network: Network) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Give sizes for inputs whose dimensions beside the batch are dynamic, shorter and longer ones."""
    if not any(axis for dims in network.dynamic for axis in dims):
        return
    for factor in FACTORS:
        sizes = tuple(
            tuple(int(size * factor) if axis and axis in dims else size for axis, size in enumerate(each))
            for each, dims in zip(network.sizes, network.dynamic, strict=True)
        )
        if all(size > 1 or size == was for each, old in zip(sizes, network.sizes, strict=True)
               for size, was in zip(each, old, strict=True)) and sum(map(math.prod, sizes)) <= MOST_VALUES:  # fmt: skip
            yield sizes


def _outputs(network: Network, inputs: Sequence[Array]) -> list[Array]:
    with torch.no_grad():
        return [output.numpy() for output in all_outputs(network.module(*map(torch.from_numpy, inputs)))]


def _check(network: Network, ours: Sequence[Array], theirs: Sequence[Array]) -> None:
    for spec, mine, wanted in zip(network.signature.outputs, ours, theirs, strict=True):
        if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
            raise _Differs(
                f"Output {spec.name} is {mine.dtype}{list(mine.shape)} as it was read,"
                f" {wanted.dtype}{list(wanted.shape)} in ONNX Runtime.",
                hint=_REPORT,
            )
        error = relative_error(wanted, mine)
        if not error <= MAX_RELATIVE_ERROR:
            raise _Differs(
                f"Output {spec.name} differs by {error:.2g} of its norm from what ONNX Runtime computes of the file.",
                hint=_REPORT,
            )


def _first_line(fault: Exception) -> str:
    return next(iter(str(fault).strip().splitlines()), type(fault).__name__)
