"""Who teaches: a network at rest, whose outputs on rows that nothing changes are computed once."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

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
from workers.compression.training.criterion import Batch, Rows

Outputs = NDArray[np.float32]

TEACHER_FILE = "teacher.npy"
MOST_BYTES = 8 * 2**30
"""Of the file of a teacher's outputs: a language model with 50,000 tokens fills it by 40,000 positions."""
MOST_OF_DISK = 0.5
"""What a file may take of the room that is left, for others work there as well."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


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

    Outputs on the rows of train that are ``known`` are not computed again; those that are prepared go to the file
    ``path``.
    """

    def __init__(
        self, network: Network, output: int, context: Context, path: Path, known: Outputs | None = None
    ) -> None:
        self.network, self.output, self._context, self._path = network.clone(), output, context, path
        self.outputs = known
        self._rows: Rows | None = None if known is None else np.arange(len(known))
        self._shown: tuple[tuple[Tensor, ...], tuple[Tensor, dict[str, Tensor]]] | None = None
        self.network.module.to(context.device).requires_grad_(requires_grad=False).eval()

    @property
    def output_name(self) -> str:
        return self.network.signature.outputs[self.output].name

    def prepare(self, rows: Rows) -> None:
        """Compute the outputs on these rows, in rising order, once, where there is room for them.

        Where there is none, each batch asks the teacher anew: that takes its time, and rounds a little otherwise.
        """
        if self._rows is not None and len(np.setdiff1d(rows, self._rows, assume_unique=True)) == 0:
            return
        self._rows, self.outputs = rows, None
        try:
            self.outputs = write_targets(self.network, self._context, self._path, self.output, rows)
        except NoRoom as error:
            self._context.log(f"{error}: the teacher is asked anew for every batch", "warning")

    def teach(self, batch: Batch) -> Tensor:
        """Give the outputs for a batch: those kept of its rows, or of its inputs where they were changed."""
        if batch.changed or self.outputs is None or self._rows is None:
            return self.show(batch, ())[0]
        found = self.outputs[np.searchsorted(self._rows, batch.rows)]
        return torch.from_numpy(found).to(self._context.device)

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


class NoRoom(Exception):
    """The outputs are more than a file of them may have, or than the disk takes."""


def write_targets(network: Network, context: Context, path: Path, output: int = 0, rows: Rows | None = None) -> Outputs:
    """Give an output of a network on rows of train, of all where none are named, (rows, …), as a map of a file.

    In float32: at half the bytes, float16 would round logits by up to 2⁻¹¹ of their size, and a job would no longer end
    the same as one whose rows are changed, whose teacher is asked anew. Raises NoRoom where they do not fit.
    """
    rows = np.arange(context.data.rows("train")) if rows is None else rows
    context.log(f"computing the teacher's outputs on {len(rows)} rows")
    # Written beside it first: what was mapped from there before stays what it was.
    unfinished = path.with_name(f"{path.name}.part")
    try:
        # By calls that write, which a full disk fails: under a map it would be a signal that ends the process.
        with unfinished.open("wb") as file:
            begun = False
            for _, found in output_batches(network, context.data, "train", rows, context.device, place=output):
                if not begun:
                    _begin_file(file, (len(rows), *found.shape[1:]), path.parent)
                    begun = True
                file.write(found.cpu().numpy().astype(np.float32, order="C").tobytes())
        unfinished.replace(path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise NoRoom("the disk has no room left for the teacher's outputs") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, "r")


def _begin_file(file: BinaryIO, shape: tuple[int, ...], folder: Path) -> None:
    """Write the head of a file of float32. Raises NoRoom where the rest is too much."""
    size, free = 4 * math.prod(shape), shutil.disk_usage(folder).free
    if size > MOST_BYTES:
        raise NoRoom(f"the teacher's outputs are {_told(size)}, more than the {_told(MOST_BYTES)} that are kept")
    if size > free * MOST_OF_DISK:
        raise NoRoom(f"the teacher's outputs are {_told(size)}, more than half of the {_told(free)} of disk left")
    head = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def _told(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
