"""Quantization-aware training: the network learns with the rounding that it will run with (Jacob 2018).

The forward pass rounds, the backward pass takes rounding for the identity within the range (Bengio 2013). Ranges follow
what they see and stand still in the last third of the training, so that the weights settle on the final grid.
"""

from dataclasses import replace

from torch import nn

from app.domain.job import EventType
from app.domain.steps.distill import DistillSpec
from app.domain.steps.quantize import QuantizeSpec
from app.domain.task import EventMessage
from workers.compression.distillation.imitation import imitate
from workers.compression.network import Network
from workers.compression.quantization import static, weight_only
from workers.compression.quantization.qat_packed import make_trainable, pack_trained
from workers.compression.quantization.static import torchao_quiet
from workers.compression.step import Context, StepResult
from workers.compression.training.criterion import LabelLoss
from workers.compression.training.loop import fit

CALIBRATING = 0.05
"""Share of the step that finding ranges takes, roughly."""
DECIDED_BEFORE = ("bias_correction", "smooth_quant")
FROZEN, FROZEN_FROM = ".frozen", 2 / 3


def run(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    """Train with int8 weights and activations, and convert as ``static`` does; int4 weights as ``weight_only``.

    Raises:
        DatasetMismatch, Diverged: as of training.
        NothingToQuantize and others: as of static, or of weight_only.
    """
    return (_run_packed if spec.packs else _run_integer)(network, spec, context)


def _fit(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    training = spec.training
    assert training is not None
    loss = imitate(training, context) if isinstance(training, DistillSpec) else LabelLoss(context.task)
    return fit(network, training, context, loss, _freeze)


def _freeze(module: nn.Module, done: float) -> None:
    for name, flag in module.named_buffers():
        if name.endswith(FROZEN):
            flag.fill_(done >= FROZEN_FROM)


def _part(context: Context, begin: float, share: float) -> Context:
    """Give the context of a part of the step, whose progress is a part of the step's."""

    def progress(event: EventMessage) -> None:
        if event.type == EventType.PROGRESS:
            whole = begin + share * event.data["fraction"]
            event = event.model_copy(update={"data": event.data | {"fraction": whole}})
        context.progress(event)

    return replace(context, progress=progress)


def _run_integer(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    with torchao_quiet():
        from workers.compression.quantization.plan import make_plan
        from workers.compression.quantization.qat_integer import (
            drop_dropout,
            found_parameters,
            round_in_training,
            settle_weights,
        )

        plan = make_plan(network, spec, _part(context, 0, CALIBRATING))
        student = replace(network, module=round_in_training(static.prepare(plan)))
        fitted = _fit(student, spec, _part(context, CALIBRATING, 1 - CALIBRATING))
        trained = drop_dropout(fitted.network.module)
        settle_weights(trained)
        # What the layers lose is judged against the weights, and by the ranges, that the training ended with.
        weights, float_graph = trained.state_dict(), plan.float_graph()
        # What no operator reads, such as how many batches a norm has seen, is not there any more.
        read = {str(node.target) for node in float_graph.graph.find_nodes(op="get_attr") if node.users}
        float_graph.load_state_dict(float_graph.state_dict() | {name: weights[name] for name in read})
        parameters = found_parameters(trained)
        result = static.finish(
            replace(plan, module=float_graph, parameters=parameters, biases={}, weights={}), trained, context
        )
    # Both were decided on the network that training began with, and say nothing of the one that came out.
    begun = {name: result.details[name] for name in DECIDED_BEFORE}
    details = {name: value for name, value in result.details.items() if name not in DECIDED_BEFORE}
    return StepResult(result.network, details | {"before_training": begun} | fitted.details, fitted.earlier_seconds)


def _run_packed(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    student, untrained = make_trainable(network, spec)
    fitted = _fit(student, spec, context)
    swapped = pack_trained(fitted.network, untrained)
    details = weight_only.describe(swapped, network, spec, context)
    return StepResult(swapped.after, details | fitted.details, fitted.earlier_seconds)
