"""Whether the table that an analysis left is of what a step would remove."""

from app.domain.dataset import DatasetFacts
from app.domain.errors import NoSensitivity
from app.domain.job import JobSpec
from app.domain.recipe import Step
from app.domain.steps.distill import DistillSpec
from app.domain.steps.prune import PruneSpec


def check_uncut(before: tuple[Step, ...]) -> None:
    """Raise NoSensitivity where a step before one that takes a table changes the channels that the table is of."""
    if any(isinstance(step, DistillSpec) and step.student is not None for step in before):
        raise NoSensitivity(
            "A student takes the network's place before it, and the table is of the network as it was uploaded.",
            hint="Upload the student and analyze that.",
        )
    if any(isinstance(step, PruneSpec) for step in before):
        raise NoSensitivity(
            "A step before it prunes, and the table is of the network as it was uploaded.",
            hint="Take the table in the first prune of the recipe, or prune in one step.",
        )


def check_table(spec: JobSpec, step: PruneSpec, analysis: JobSpec, dataset: DatasetFacts) -> None:
    """Raise NoSensitivity where the table of an analysis is not of what a step of a job would remove."""
    measured = analysis.recipe[0]
    assert isinstance(measured, PruneSpec)  # nothing else leaves a table
    for name, here, there in (
        ("model_id", spec.model_id, analysis.model_id),
        # Other data might have had the rows for choosing that judge here.
        ("dataset_id", spec.dataset_id, analysis.dataset_id),
        ("granularity", step.granularity, measured.granularity),
        ("criterion", step.criterion, measured.criterion),
    ):
        if here != there:
            raise NoSensitivity(
                f"The job analyzed another {name}: {there}, not {here}.",
                hint=f"Analyze with this {name}, or give the {name} that was analyzed.",
            )
    if "validation" not in dataset.splits and spec.seed != analysis.seed:
        raise NoSensitivity(
            f"The job analyzed by the seed {analysis.seed}, and the seed is {spec.seed}. It says which rows of train"
            " judge, as there is no validation split, and none of those may have chosen the amounts.",
            hint="Give the same seed, or a data set with a validation split.",
        )
    if missing := sorted(set(measured.exclude) - set(step.exclude)):
        raise NoSensitivity(f"The job left out the layers {', '.join(missing)}.", hint="Exclude them here as well.")
