"""What must hold after every step, so that none fails or does nothing without a word."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.domain.errors import CheckFailed, NoChange
from app.domain.report import FileAgreement
from workers.compression.counting import count_nonzero_parameters, count_parameters
from workers.compression.datasets import Dataset
from workers.compression.evaluation import Logits, predict, relative_difference
from workers.compression.formats import pt2
from workers.compression.inference import all_outputs, compute_logits, held_at_once
from workers.compression.network import Network
from workers.compression.tasks import TASKS, Task

REAL_ROWS = 1024
NARROW = frozenset({torch.int8, torch.uint8, torch.float16, torch.bfloat16})
MIN_AGREEMENT = 0.98
"""Share of decisions, one a row, a label or a token, which ``.pt2`` and ONNX must make alike.

torch sums dequantized products in float, integer kernels sum integers: where a sum lies at the middle between two
quanta, one rounds up and the other down, and a row that was a tie within such a step may be decided differently.
"""
MAX_RELATIVE_DIFFERENCE = 0.05
"""How far outputs that decide nothing may be apart, by ‖a − b‖ / ‖a‖."""
MAX_RELATIVE_DIFFERENCE_QUANTIZED = 0.2
"""The same where integers are computed with, whose ties every later layer carries on: dynamic int8 of MiniLM is 0.05 to
0.12 apart. Of vectors of one length it is a cosine of 0.98, as many decisions as :data:`MIN_AGREEMENT` asks for.
"""
WIDEST_TIE = 0.1
"""Margin, in standard deviations of the outputs, within which a row counts as such a tie."""


def check_step(method: str, before: Network, after: Network) -> None:
    """Raise NoChange where the step did nothing, CheckFailed where its result is no network to go on with."""
    PROMISES[method](before, after)
    if before.signature != after.signature:
        raise CheckFailed(f"{method} changed the network's signature")
    inputs = before.example_inputs()
    with torch.no_grad():
        pairs = zip(*(all_outputs(network.module(*inputs)) for network in (before, after)), strict=True)
    for expected, output in pairs:
        if expected.shape != output.shape:
            raise CheckFailed(f"{method} changed an output's shape from {list(expected.shape)} to {list(output.shape)}")
        if torch.isfinite(expected).all() and not torch.isfinite(output).all():
            raise CheckFailed(f"{method} made outputs that are not finite")


def check_files(onnx_path: Path, pt2_path: Path, data: Dataset, threads: int) -> FileAgreement:
    """Load both files anew and compare them on the first validation rows.

    Raises:
        CheckFailed: they decide too many rows differently, or one that is no tie.
    """
    network = pt2.load(pt2_path)
    rows = np.arange(data.rows("validation"))[: held_at_once(network, data, REAL_ROWS)]
    ours = compute_logits(network, data, "validation", rows, torch.device("cpu")).numpy()
    theirs = predict(onnx_path, data, "validation", threads, limit=len(rows))
    if ours.shape != theirs.shape:
        raise CheckFailed(f"the .pt2 gives {ours.shape}, the ONNX file {theirs.shape}")
    if not np.isfinite(theirs).all():
        raise CheckFailed("the ONNX file gives outputs that are not finite")
    agreement = compare_outputs(ours, theirs, TASKS[data.task], shown_positions(data, rows))
    equal, tie = agreement.equal_predictions, agreement.widest_tie
    if equal is None or tie is None:
        limit = MAX_RELATIVE_DIFFERENCE_QUANTIZED if network.quantized else MAX_RELATIVE_DIFFERENCE
        if agreement.relative_difference > limit:
            raise CheckFailed(
                f"on {len(rows)} rows the .pt2 and the ONNX file differ by {agreement.relative_difference:.2g}"
                " of their outputs, so that they do not agree"
            )
    elif equal < MIN_AGREEMENT or tie > WIDEST_TIE:
        raise CheckFailed(
            f"the .pt2 and the ONNX file agree on {equal:.1%} of what they decide on {len(rows)} rows; what they"
            f" decide differently was decided by up to {tie:.2g} standard deviations of the outputs"
        )
    return agreement


def shown_positions(data: Dataset, rows: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Tell which positions of rows are no filling, (rows, positions); None where nothing tells."""
    mask = data.labelling.mask
    return None if mask is None else data.gather("validation", rows)[0][mask].numpy() != 0


def compare_outputs(ours: Logits, theirs: Logits, task: Task, shown: NDArray[np.bool_] | None = None) -> FileAgreement:
    """Compare outputs for the same rows, (rows, …), where they are ``shown``; margins are those of ``ours``."""
    a, b = (
        values.astype(np.float64) if shown is None else values[shown].astype(np.float64) for values in (ours, theirs)
    )
    decided, others = task.decide(a), task.decide(b)
    margins = task.margins(a, others)
    return FileAgreement(
        rows=len(ours),
        equal_predictions=None if margins is None else float((decided == others).mean()),
        largest_difference=float(np.abs(a - b).max()),
        relative_difference=relative_difference(a, b),
        widest_tie=None if margins is None else float(margins.max() / max(float(a.std()), 1e-12)),
    )


def _is_pruned(before: Network, after: Network) -> None:
    whole = [count_parameters(network) for network in (before, after)]
    nonzero = [count_nonzero_parameters(network) for network in (before, after)]
    if whole[1] >= whole[0] and nonzero[1] >= nonzero[0]:
        raise NoChange(
            f"pruning left {whole[1]} of {whole[0]} parameters, {nonzero[1]} of {nonzero[0]} that are not zero",
            hint="Ask for a larger amount.",
        )


def _has_learned(before: Network, after: Network) -> None:
    known = dict(before.module.named_parameters())
    if all(torch.equal(value, known[name]) for name, value in after.module.named_parameters()):
        raise NoChange("training moved no weight", hint="Try a higher learning rate.")


def _is_quantized(_: Network, after: Network) -> None:
    stored = [value.dtype for value in after.module.state_dict().values() if value.ndim > 1]
    if not after.quantized or NARROW.isdisjoint(stored):
        raise NoChange("no weight is stored in fewer bits than before")


PROMISES: dict[str, Callable[[Network, Network], None]] = {
    "prune": _is_pruned,
    "distill": _has_learned,
    "finetune": _has_learned,
    "quantize": _is_quantized,
}
