"""The one representation of a network, whatever file it came from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.export import Dim, ExportedProgram

from app.domain.errors import UnsupportedNetwork
from app.domain.model import Signature
from workers.compression.examples import draw, table_rows

STORED_WEIGHT = "stored_weight"
"""What a layer calls its weight where it is stored in fewer bits than it is computed with."""
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


@dataclass(frozen=True)
class Network:
    """A graph of real ``nn`` modules under their original names, in eval mode.

    The module's placeholders are the user's inputs alone; it returns a tensor or a tuple of them.
    """

    module: torch.fx.GraphModule
    signature: Signature
    dynamic: tuple[dict[int, Dim], ...]
    """For each input, its dynamic dimensions; inputs that must agree share one ``Dim``."""
    sizes: tuple[tuple[int, ...], ...]
    """For each input, the sizes it was exported with."""
    quantized: bool = False
    """Whether the module is a converted PT2E graph of quantized operators, or holds a ``STORED_WEIGHT``."""

    @property
    def batch_is_dynamic(self) -> bool:
        return any(0 in dims for dims in self.dynamic)

    @property
    def rows(self) -> int:
        """Rows of a fixed batch; 1 where the batch is dynamic."""
        return 1 if self.batch_is_dynamic or not self.sizes or not self.sizes[0] else self.sizes[0][0]

    def clone(self) -> Network:
        return replace(self, module=copy.deepcopy(self.module))

    def with_outputs(self, names: Sequence[str]) -> Network:
        """Call the outputs so, for who asks a file for them by name; one that is called as an input is stays."""
        taken = {spec.name for spec in self.signature.inputs}
        outputs = tuple(
            spec if name in taken else spec.model_copy(update={"name": name})
            for spec, name in zip(self.signature.outputs, names, strict=True)
        )
        return replace(self, signature=self.signature.model_copy(update={"outputs": outputs}))

    def example_inputs(self, batch: int = 2) -> tuple[torch.Tensor, ...]:
        """Make seeded rows that fit the signature and what the network does with each input.

        A fixed batch stays as exported, whatever ``batch`` says.
        """
        generator = torch.Generator().manual_seed(0)
        inputs = []
        placeholders = self.module.graph.find_nodes(op="placeholder")
        for node, spec, dims, exported in zip(
            placeholders, self.signature.inputs, self.dynamic, self.sizes, strict=True
        ):
            shape = [batch if axis == 0 and 0 in dims else size for axis, size in enumerate(exported)]
            inputs.append(draw(DTYPES[spec.dtype], shape, table_rows(self.module, node), generator))
        return tuple(inputs)

    def _exportable_rows(self) -> int:
        # Export takes a size of 0 or 1 for a constant.
        return max([2, *(dims[0].min for dims in self.dynamic if 0 in dims)])

    def export(self) -> ExportedProgram:
        """Export in eval mode with the dynamic dimensions kept.

        Raises:
            UnsupportedNetwork: the graph no longer allows one of its dynamic dimensions.
        """
        module = self.module
        if not self.quantized and any(part.training for part in module.modules()):
            module = copy.deepcopy(module).eval()
        shapes = tuple(dict(dims) for dims in self.dynamic)
        try:
            return torch.export.export(module, self.example_inputs(self._exportable_rows()), dynamic_shapes=shapes)
        except (torch._dynamo.exc.UserError, ValueError) as error:  # noqa: SLF001 - the only class export raises here
            raise UnsupportedNetwork(f"The network cannot be exported again: {error}") from error
