"""Fine-tuning: train on the labels alone."""

from app.domain.steps.training import FinetuneSpec
from workers.compression.network import Network
from workers.compression.step import Context, StepResult
from workers.compression.training.criterion import LabelLoss
from workers.compression.training.loop import fit
from workers.compression.training.weights import class_weights


def run(network: Network, spec: FinetuneSpec, context: Context) -> StepResult:
    """Train by the loss of the context's task."""
    return fit(network, spec, context, LabelLoss(context.task, class_weights(spec, context), spec.label_smoothing))
