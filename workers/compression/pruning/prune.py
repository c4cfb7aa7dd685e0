"""Leads a prune step to what removes channels or what zeroes weights."""

from app.domain.recipe import PruneSpec
from workers.compression.network import Network
from workers.compression.pruning import channel, weight
from workers.compression.step import Context, StepResult


def run(network: Network, spec: PruneSpec, context: Context) -> StepResult:
    return (channel if spec.granularity == "channel" else weight).run(network, spec, context)
