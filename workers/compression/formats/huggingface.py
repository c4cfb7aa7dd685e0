"""Hugging Face folders in a zip or a tar: a network that ``transformers`` knows, exported as its user would."""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from app.domain.errors import CorruptFile, UnsupportedNetwork
from workers.compression.admission.huggingface import Folder, Members, open_archive, read_folder
from workers.compression.formats.huggingface_inputs import Input, inputs_of
from workers.compression.formats.transformers_classes import EXPORT, build, in_our_words, known_class, listed, quiet
from workers.compression.lifting import lift
from workers.compression.network import Network

_ROWS, _OTHER_ROWS = 2, 3
_TOLERANCE = 1e-4
_READ = frozenset({"F32", "F16", "BF16"})
_WHOLE = frozenset({"I64", "I32", "I16", "I8", "U8", "BOOL"})


def load(path: Path) -> Network:
    """Read a folder of ``config.json`` and safetensors; weights of fewer bits than float32 are widened to it.

    The file must have been admitted before.

    Raises:
        CorruptFile: a weight that the outputs need is missing, or has another shape.
        UnsupportedNetwork: ``transformers`` knows no such class, or what it makes cannot be exported.
    """
    with open_archive(path) as archive, tempfile.TemporaryDirectory() as scratch, quiet():
        folder = read_folder(archive)
        known = known_class(folder.config)
        weights = _read_weights(archive, folder, Path(scratch))
        with in_our_words(f"{known.name} cannot be taken in"):
            module, missing = build(known, folder.config, weights)
            rows = inputs_of(module, folder.preprocessor)
            _narrow(module, rows.names, known.outputs)
            network = lift(_export(module, rows)).with_outputs(known.outputs)
            _check_whole(network, missing)
            _check_same(network, module, rows)
        return network


def _read_weights(archive: Members, folder: Folder, scratch: Path) -> dict[str, Tensor]:
    """Lay the files down and map them into memory, from where the network copies what it needs."""
    for tensor in folder.tensors.values():
        if tensor.dtype not in _READ | _WHOLE:
            message = f"The weight {tensor.name!r} is {tensor.dtype}; read are {', '.join(sorted(_READ))}."
            raise UnsupportedNetwork(
                message, hint="Save the network in float32: model.float().save_pretrained(folder)."
            )
    weights: dict[str, Tensor] = {}
    for file, member in folder.files.items():
        with (scratch / file).open("wb") as out:
            out.writelines(archive.blocks(member))
        try:
            weights |= load_file(scratch / file)
        except SafetensorError as error:
            raise CorruptFile(f"{file} cannot be read: {error}") from error
    return weights


def _narrow(module: nn.Module, names: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Have the network take these inputs by their names and give these outputs alone.

    Not by a network around it: the layers keep the names that their weights have.
    """
    whole = module.forward

    def forward(*values: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = whole(**dict(zip(names, values, strict=True)))
        picked = tuple(found.get(name) for name in outputs)
        if not all(isinstance(part, Tensor) for part in picked):
            raise UnsupportedNetwork(f"{type(module).__name__} gives no {' and '.join(outputs)}.", hint=EXPORT)
        return picked[0] if len(picked) == 1 else picked

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    module.forward = forward


def _export(module: nn.Module, rows: Input) -> ExportedProgram:
    """Export with dynamic sizes, or with a dynamic batch alone where the network allows no other length."""
    inputs, errors = rows.rows(_ROWS), []
    for dynamic in rows.dynamic():
        # As its documentation has it: what stands under no_grad inside would else be a graph of its own.
        try:
            with torch.no_grad(), in_our_words(f"{type(module).__name__} cannot be exported"):
                return torch.export.export(module, inputs, dynamic_shapes=dynamic)
        except UnsupportedNetwork as error:
            errors.append(error)
    raise errors[0]


def _check_whole(network: Network, missing: frozenset[str]) -> None:
    """Refuse a network whose outputs come of weights that were drawn, for want of their own."""
    wanted = missing & {name for name, _ in (*network.module.named_parameters(), *network.module.named_buffers())}
    if wanted:
        raise CorruptFile(
            f"The folder lacks the weights {listed(wanted)}.", hint="Save it whole with model.save_pretrained(folder)."
        )


def _check_same(network: Network, module: nn.Module, rows: Input) -> None:
    """Compare with the library's own outputs, on other numbers of rows and tokens than it was exported with."""
    other = len(network.dynamic[0]) > 1
    inputs = rows.rows(_OTHER_ROWS, other=other)
    with torch.no_grad():
        wanted, given = module(*inputs), network.module(*inputs)
    pairs = zip(*((outputs if isinstance(outputs, tuple) else (outputs,)) for outputs in (wanted, given)), strict=True)
    for ours, theirs in pairs:
        apart = float((ours - theirs).abs().max())
        if not apart <= _TOLERANCE * max(1.0, float(theirs.abs().max())):
            message = f"The network gives other outputs for other rows, once exported: they are {apart:.2g} apart."
            raise UnsupportedNetwork(message, hint=EXPORT)
