"""Who learns: the network as the recipe has it, another model, or one derived from the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.domain.compatibility.distill import count_kept
from app.domain.errors import NoChange, NoStudent, NothingToPrune, ValidationFailed
from app.domain.steps.distill import DerivedStudent, DistillSpec
from app.domain.steps.prune import PruneSpec
from workers.compression.counting import count_macs, count_parameters
from workers.compression.distillation.blocks import find_blocks, keep_blocks
from workers.compression.network import Network
from workers.compression.pruning import channel
from workers.compression.step import Context


@dataclass(frozen=True)
class Student:
    """A network to train, and how it came to be."""

    network: Network
    details: dict[str, Any] = field(default_factory=dict)


def find_student(network: Network, spec: DistillSpec, context: Context) -> Student:
    """Give the student that a step names. Raises NoStudent where none can be derived as asked."""
    if spec.student is None:
        return Student(network, {"network": "recipe"})
    if isinstance(spec.student, DerivedStudent):
        return derive(network, spec.student, context)
    student = context.models[spec.student]
    if student.signature.inputs != network.signature.inputs:
        raise ValidationFailed("the student's inputs are not those of the model", hint="Choose another student.")
    return Student(student, {"network": spec.student})


def derive(network: Network, asked: DerivedStudent, context: Context) -> Student:
    """Make a smaller network that starts from the weights of this one; fewer blocks first, then fewer channels.

    Raises:
        NoStudent: its structure does not allow it; what was found is in the message.
    """
    student, details = network, dict[str, Any](network="derived")
    if asked.depth is not None:
        student, dropped = _shallower(student, asked.depth)
        details["dropped_blocks"] = dropped
    if asked.width is not None:
        student, kept = _narrower(student, asked.width, context)
        details["channels"] = kept
    details |= {
        "macs_ratio": count_macs(network) / max(1, count_macs(student)),
        "parameters_ratio": count_parameters(network) / max(1, count_parameters(student)),
    }
    return Student(student, details)


def _shallower(network: Network, depth: float) -> tuple[Network, list[list[str]]]:
    """Keep this share of the blocks that can go; name the layers of those that went."""
    blocks = find_blocks(network)
    kept = count_kept([block.layers for block in blocks], depth, _layers(network))
    stay = {place * len(blocks) // kept for place in range(kept)}
    gone = [block for place, block in enumerate(blocks) if place not in stay]
    return keep_blocks(network, gone), [list(block.layers) for block in gone]


def _narrower(network: Network, width: float, context: Context) -> tuple[Network, list[dict[str, Any]]]:
    """Keep this share of every layer's channels, by the groups that pruning finds."""
    spec = PruneSpec(method="prune", criterion="l2", amount=1 - width, scope="layer")
    try:
        result = channel.run(network, spec, context)
    except (NothingToPrune, NoChange) as error:
        raise NoStudent(
            f"width narrows layers by the channels that can go together: {error.detail}",
            hint="Give a depth, or a student of your own.",
        ) from error
    return result.network, result.details["layers"]


def _layers(network: Network) -> str:
    called = [str(node.target) for node in network.module.graph.find_nodes(op="call_module")]
    return ", ".join(dict.fromkeys(called)) or "no layers"
