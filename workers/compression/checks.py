"""What must hold after every step, so that none fails or does nothing without a word."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from app.domain.errors import CheckFailed, NoChange
from workers.compression.counting import count_nonzero_parameters, count_parameters
from workers.compression.datasets import Dataset
from workers.compression.evaluation import Logits, predict
from workers.compression.formats import pt2
from workers.compression.inference import compute_logits, first_output
from workers.compression.network import Network

REAL_ROWS = 256
NARROW = frozenset({torch.int8, torch.uint8, torch.float16, torch.bfloat16})
MIN_AGREEMENT = 0.98
"""Share of rows on which ``.pt2`` and ONNX must name the same class: kernels that fuse round differently."""


def check_step(method: str, before: Network, after: Network) -> None:
    """Raise NoChange where the step did nothing, CheckFailed where its result is no network to go on with."""
    PROMISES[method](before, after)
    if before.signature != after.signature:
        raise CheckFailed(f"{method} changed the network's signature")
    inputs = before.example_inputs()
    with torch.no_grad():
        expected, output = (first_output(network.module(*inputs)) for network in (before, after))
    if expected.shape != output.shape:
        raise CheckFailed(f"{method} changed the output's shape from {list(expected.shape)} to {list(output.shape)}")
    if torch.isfinite(expected).all() and not torch.isfinite(output).all():
        raise CheckFailed(f"{method} made outputs that are not finite")


def check_files(onnx_path: Path, pt2_path: Path, data: Dataset, threads: int) -> float:
    """Load both files anew and compare them on real rows; give the share of equal decisions."""
    rows = np.arange(min(REAL_ROWS, data.rows("validation")))
    ours = compute_logits(pt2.load(pt2_path), data, "validation", rows, torch.device("cpu")).numpy()
    theirs = predict(onnx_path, data, "validation", threads, limit=len(rows))
    if ours.shape != theirs.shape:
        raise CheckFailed(f"the .pt2 gives {ours.shape}, the ONNX file {theirs.shape}")
    if not np.isfinite(theirs).all():
        raise CheckFailed("the ONNX file gives outputs that are not finite")
    agreement = _agreement(ours, theirs)
    if agreement < MIN_AGREEMENT:
        raise CheckFailed(f"the .pt2 and the ONNX file agree on {agreement:.1%} of {len(rows)} rows")
    return agreement


def _agreement(ours: Logits, theirs: Logits) -> float:
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())


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
