"""Who teaches: a network at rest, whose outputs on rows that nothing changes are computed once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.domain.errors import ValidationFailed
from app.domain.steps.distill import BASELINE, DistillSpec
from workers.compression.distillation.hints import watching
from workers.compression.inference import all_outputs, output_batches
from workers.compression.network import Network
from workers.compression.step import Context
from workers.compression.training.criterion import Batch

Outputs = NDArray[np.float32]

TEACHER_FILE = "teacher.npy"


def find_teacher(spec: DistillSpec, context: Context) -> Network:
    """Give the network that a step names as its teacher. Raises ValidationFailed where its inputs are others."""
    network = context.baseline if spec.teacher == BASELINE else context.models[spec.teacher]
    if network.signature.inputs != context.baseline.signature.inputs:
        raise ValidationFailed("the teacher's inputs are not those of the model", hint="Choose another teacher.")
    return network


def find_output(network: Network, name: str | None) -> int:
    """Tell which output bears the name, the first where none is asked for."""
    names = [output.name for output in network.signature.outputs]
    if name is not None and name not in names:
        raise ValidationFailed(f"the teacher has no output {name!r}; it has {', '.join(names)}")
    return 0 if name is None else names.index(name)


class Teacher:
    """A copy of a network in eval mode; nothing of it is ever trained.

    Outputs on the rows of train that are ``known`` are not computed again; the others go to the file ``path``.
    """

    def __init__(
        self, network: Network, output: int, context: Context, path: Path, known: Outputs | None = None
    ) -> None:
        self.network, self.output, self._context, self._path = network.clone(), output, context, path
        self._known = known
        self._shown: tuple[tuple[Tensor, ...], tuple[Tensor, dict[str, Tensor]]] | None = None
        self.network.module.to(context.device).requires_grad_(requires_grad=False).eval()

    @property
    def output_name(self) -> str:
        return self.network.signature.outputs[self.output].name

    @functools.cached_property
    def outputs(self) -> Outputs:
        """The outputs on every row of train, as a map of a file; computed when first asked for."""
        if self._known is not None:
            return self._known
        return write_targets(self.network, self._context, self._path, self.output)

    def teach(self, batch: Batch) -> Tensor:
        """Give the outputs for a batch: those of its rows, or of its inputs where they were changed."""
        if batch.changed:
            return self.show(batch, ())[0]
        return torch.from_numpy(self.outputs[batch.rows]).to(self._context.device)

    def show(self, batch: Batch, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run on a batch; give the outputs and what these layers gave.

        A batch of mixed rows is asked for twice, once for the labels of each: the second time nothing is run.
        """
        if self._shown is None or self._shown[0] is not batch.inputs:
            self._shown = batch.inputs, self._run(batch, layers)
        return self._shown[1]

    def _run(self, batch: Batch, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        with watching(self.network.module, layers) as features, torch.no_grad():
            outputs = all_outputs(self.network.module(*batch.inputs))
            return outputs[self.output].float(), features.take()


def write_targets(network: Network, context: Context, path: Path, output: int = 0) -> Outputs:
    """Give an output of a network on every row of train, (rows, …), as a map of a file.

    In float32: at half the bytes, float16 would round logits by up to 2⁻¹¹ of their size, and a job would no longer end
    the same as one whose rows are changed, whose teacher is asked anew.
    """
    rows = np.arange(context.data.rows("train"))
    context.log(f"computing the teacher's outputs on {len(rows)} rows")
    mapped: np.memmap[Any, np.dtype[np.float32]] | None = None
    for picked, found in output_batches(network, context.data, "train", rows, context.device, place=output):
        if mapped is None:
            mapped = np.lib.format.open_memmap(path, "w+", np.float32, (len(rows), *found.shape[1:]))
        mapped[picked] = found.cpu().numpy()
    assert mapped is not None  # fit refuses a data set without train rows before
    mapped.flush()
    return np.lib.format.open_memmap(path, "r")
