"""What a user may ask for: one spec a method, an ordered list of them a recipe.

Adding a method is one spec in ``steps``, its file in ``workers.compression`` and one entry in ``SPECS``.
"""

from typing import Annotated

from pydantic import Field

from app.domain.steps.distill import DistillSpec
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import QuantizeSpec
from app.domain.steps.step import StepSpec
from app.domain.steps.training import FinetuneSpec

MAX_STEPS = 8

Step = Annotated[PruneSpec | DistillSpec | FinetuneSpec | QuantizeSpec, Field(discriminator="method")]
Recipe = Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]

SPECS: dict[str, type[StepSpec]] = {
    "prune": PruneSpec,
    "distill": DistillSpec,
    "finetune": FinetuneSpec,
    "quantize": QuantizeSpec,
}
