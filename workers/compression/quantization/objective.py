"""The accuracy gate, held for any scheme that can leave layers in float: which rows judge, what a choice costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.domain.compatibility import learning
from app.domain.learning_task import IGNORED
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.evaluation import Logits
from workers.compression.network import Network
from workers.compression.quantization import gate
from workers.compression.quantization.calibration import SPLIT, Inputs
from workers.compression.quantization.gate_rows import TRAIN, GateRows, choose_rows
from workers.compression.step import Context

_JUDGED = 0.9
"""Share of the step that is done when the choice is made."""


class Choices(Protocol):
    """What a scheme tells of the layers that it would quantize, by name, and of having some of them in float."""

    def reference(self, batches: list[Inputs]) -> Tensor:
        """Give the outputs, (rows, …), of the network as it came to the step."""

    def outputs(self, floats: frozenset[str], batches: list[Inputs]) -> Tensor:
        """Give the outputs with the named layers in float and all others quantized."""

    def sqnr(self) -> Mapping[str, float | None]:
        """Give each layer's SQNR in dB where all are quantized; None where the error is zero."""

    def macs(self) -> Mapping[str, float]:
        """Give each layer's multiply-accumulates, which going back to float makes dear."""


@dataclass(frozen=True)
class Held:
    """The choice that was made, and the rows that it was made on."""

    outcome: gate.Outcome
    rows: GateRows

    @property
    def floats(self) -> frozenset[str]:
        return self.outcome.floats

    def as_json(self) -> dict[str, Any]:
        return self.rows.as_json() | self.outcome.as_json()


def hold_objective(
    choices: Choices, network: Network, spec: QuantizeSpec, context: Context, *, observed: int, begin: float
) -> Held | None:
    """Choose the layers that must stay in float for the objective; None where there is none, or no row to try them on.

    The drop is that from the network as it came to this step: what steps before it lost is not its to give back.
    ``observed`` calibration rows have given ranges; ``begin`` is the share of the step that is done.
    """
    if context.objective is None:
        return None
    if not any(map(context.data.rows, (SPLIT, TRAIN))):
        # What calibrates nothing needs no such rows; validation, which judges the file, must not choose.
        context.log("no calibration or train rows to hold the objective on: every layer is quantized", "warning")
        return None
    rows = choose_rows(network, context, spec, observed=observed)
    reference = choices.reference(rows.batches)[: rows.count].numpy()
    labels = _own_labels(reference, rows, context) if rows.labels is None else rows.labels

    def run(floats: frozenset[str]) -> Logits:
        context.fraction(begin + len(judge.tried) / judge.budget * (_JUDGED - begin), "Holding the objective")
        logits: Logits = choices.outputs(floats, rows.batches)[: rows.count].numpy()
        return logits

    metric = learning.objective_metric(context.objective, context.task.name)
    judge = gate.Judge(reference, labels, run, spec.evaluations, context.task, metric)
    sqnr = {name: math.inf if value is None else value for name, value in choices.sqnr().items()}
    macs = choices.macs()
    costs = {name: macs.get(name, 0.0) for name in sqnr}
    outcome = gate.hold(judge, sorted(sqnr, key=lambda name: sqnr[name]), costs, context.objective.max_drop)
    context.log(str(outcome), "info" if outcome.held else "warning")
    return Held(outcome, rows)


def _own_labels(reference: Logits, rows: GateRows, context: Context) -> NDArray[Any]:
    """Give the labels that the float network gives its rows itself, but for positions that are filling."""
    decided, mask = context.task.decide(reference), context.data.labelling.mask
    if mask is None:
        return decided
    shown = torch.cat([inputs[mask] for inputs in rows.batches])[: rows.count].numpy()
    return np.where(shown != 0, decided, IGNORED)
