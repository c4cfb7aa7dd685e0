"""Leads a prune step to what removes channels or what zeroes weights."""

from app.domain.errors import RecipeOrder
from app.domain.steps.prune import PruneSpec
from workers.compression.network import Network
from workers.compression.pruning import channel, weight
from workers.compression.step import Context, StepResult


def run(network: Network, spec: PruneSpec, context: Context) -> StepResult:
    """Prune. Raises RecipeOrder for an analysis, which is a job of its own (``workers.compression.analysis``)."""
    if spec.analyze:
        raise RecipeOrder("an analysis changes nothing, so it is no step towards a result", hint="Run it alone.")
    return (channel if spec.granularity == "channel" else weight).run(network, spec, context)
