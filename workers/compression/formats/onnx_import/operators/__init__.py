"""The declared list of operators: one small function and one entry in a table each."""

from __future__ import annotations

from workers.compression.formats.onnx_import.operators.elementwise import ELEMENTWISE
from workers.compression.formats.onnx_import.operators.layers import LAYERS
from workers.compression.formats.onnx_import.operators.movement import MOVEMENT
from workers.compression.formats.onnx_import.operators.reductions import REDUCTIONS
from workers.compression.formats.onnx_import.operators.spatial import SPATIAL
from workers.compression.formats.onnx_import.sizes import OF_SHAPES, SIZES, is_sizes
from workers.compression.formats.onnx_import.values import Call, Operator, Result

OPERATORS: dict[str, Operator] = {**OF_SHAPES, **ELEMENTWISE, **LAYERS, **MOVEMENT, **REDUCTIONS, **SPATIAL}


def compute(call: Call) -> Result:
    """Compute on sizes without tensors where that goes, else with tensors."""
    if call.node.op in SIZES and is_sizes(call):
        found = SIZES[call.node.op](call)
        if found is not None:
            return found
    return OPERATORS[call.node.op](call)
