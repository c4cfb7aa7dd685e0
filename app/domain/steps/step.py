"""What every step of a recipe shares."""

from pydantic import ConfigDict

from app.domain.exact import Exact


class StepSpec(Exact):
    """What all steps share: unknown fields are refused, and a spec never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def trained_epochs(self) -> int:
        """Give the epochs that this step trains for; more than 0 needs a training split and a trainable network."""
        return 0

    @property
    def models(self) -> dict[str, str]:
        """Ids of other models that the step needs, by the field that names each."""
        return {}
