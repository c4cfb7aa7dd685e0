"""What a step that prunes takes, and an analysis of what pruning would cost."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from app.domain.steps.step import StepSpec

DEFAULT_AMOUNT = 0.5
MOST_AMOUNT = 0.95
_OF_CHANNELS = ("macs_ratio", "parameters_ratio", "minimum_channels", "round_to")
_OF_ROUNDS = ("schedule", "recovery_epochs")
_OF_RECOVERY = ("recovery_method", "recovery_learning_rate")
_MEASURES = ("amount", "macs_ratio", "parameters_ratio")
# An analysis chooses these itself, or stops before they matter.
_NOT_ANALYZED = (*_MEASURES, "round_to", "overrides", "scope", "rounds", "sensitivity")


class PruneSpec(StepSpec):
    """Remove whole channels, so that the network gets physically smaller, or set single weights to zero."""

    method: Literal["prune"]
    granularity: str = Field(
        "channel",
        pattern=r"^(channel|weight|[1-9]\d?:[1-9]\d?)$",
        description="What goes: whole channels with all that is coupled to them; single weights; or, for n:m such as "
        "2:4, all but n of every m weights along a layer's inputs. Zeros make no network faster on a CPU.",
    )
    criterion: Literal["l1", "l2", "taylor", "bn_scale", "wanda", "random"] = Field(
        "l2",
        description="How importance is scored; l1 and l2 of a single weight are its magnitude. "
        "l1: mean |w|; l2: root mean square; both tensor by tensor over what a channel owns: the filters that make it, "
        "or the batch norms' scales right behind them, and the weights that read it; "
        "taylor: |Σ w·∂L/∂w| on train rows; bn_scale: |γ| of the batch norms behind it, channels without one stay; "
        "wanda: |w| times the norm of its input, of single weights of linear layers, always compared within an output; "
        "random: drawn by the job's seed, the control.",
    )
    amount: float | None = Field(
        None,
        gt=0,
        le=MOST_AMOUNT,
        description="Share of the prunable units or weights to remove; 0.5 where no ratio is given. A unit is "
        "one channel with all that is coupled to it; in a transformer a whole attention head counts as one.",
    )
    macs_ratio: float | None = Field(
        None, gt=1, le=1000, description="Instead of an amount: how many times fewer multiplications, within 3 %."
    )
    parameters_ratio: float | None = Field(
        None, gt=1, le=1000, description="Instead of an amount: how many times fewer parameters, within 3 %."
    )
    minimum_channels: int = Field(1, ge=1, le=65536, description="Channels that each layer keeps at least.")
    round_to: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto",
        description="What a layer keeps of its channels is a multiple of this, or all of them. "
        "auto: 8, or the largest of 4, 2 and 1 with which the amount or the ratio is still met within 3 %.",
    )
    exclude: tuple[str, ...] = Field(
        (), max_length=100, description="Layers that stay whole: names or patterns such as stem.* (fnmatch)."
    )
    overrides: dict[str, Annotated[float, Field(ge=0, le=MOST_AMOUNT)]] = Field(
        {}, max_length=100, description="Amounts of single layers, by name or pattern; the first that matches holds."
    )
    scope: Literal["global", "layer"] = Field(
        "global",
        description="Rank over the whole network, or remove the same share of each group or layer. "
        "wanda takes the same share of each output, whatever the scope.",
    )
    rounds: int = Field(1, ge=1, le=20, description="Remove the amount in this many rounds, scoring anew in each.")
    schedule: Literal["constant", "cubic"] = Field(
        "constant",
        description="Share of the amount that is gone after round t of n. constant: t/n; "
        "cubic: 1 − (1 − t/n)³, much at first and ever less (Zhu & Gupta 2017, eq. 1).",
    )
    recovery_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="Passes over the training split behind every round but the last, which a step that trains can "
        "follow. A round that removed nothing has none.",
    )
    recovery_method: Literal["finetune", "distill"] = Field(
        "finetune", description="What recovers between rounds: labels alone, or the uploaded network's outputs as well."
    )
    recovery_learning_rate: float = Field(
        0.01, gt=0, le=10, description="Peak rate of the cosine schedule, which each recovery runs through anew."
    )
    analyze: bool = Field(
        False,  # noqa: FBT003 - a field's default
        description="Change nothing: measure, group by group, how the metric suffers as more of it goes, and keep the "
        "table. Calibration rows judge where they have labels, else train rows; validation rows never do, so that they "
        "stay a fair judge of what the table is used for. The only step of its job.",
    )
    budget_seconds: int = Field(
        600, ge=1, le=7 * 24 * 3600, description="How long an analysis measures; what it left out is in its table."
    )
    sensitivity: str | None = Field(
        None,
        description="Id of a job that analyzed this model, by this criterion and on this data set: more goes where "
        "its table says that the metric suffers least, and the amount or ratio holds for all groups together.",
    )

    @property
    def trained_epochs(self) -> int:
        return (self.rounds - 1) * self.recovery_epochs

    def macs_left(self, gone: float = 1.0) -> float:
        """Give the share of the multiplications that is left, roughly, once this share of the amount is gone.

        Of channels a layer loses as many of those it reads as of those it makes. Zeros are multiplied as well.
        """
        ratio = self.macs_ratio or self.parameters_ratio
        if self.granularity != "channel" or self.analyze:
            return 1.0
        return 1 - gone * (1 - 1 / ratio) if ratio else (1 - gone * (self.amount or 0.0)) ** 2

    @property
    def kept(self) -> tuple[int, int] | None:
        """Give n and m where all but n of every m weights go."""
        keep, colon, block = self.granularity.partition(":")
        return (int(keep), int(block)) if colon else None

    @model_validator(mode="before")
    @classmethod
    def _fill_amount(cls, given: Any) -> Any:
        if isinstance(given, dict) and all(given.get(name) is None for name in _MEASURES):
            if given.get("analyze") or ":" in str(given.get("granularity")):
                return given
            return given | {"amount": DEFAULT_AMOUNT}
        return given

    @model_validator(mode="after")
    def _take_one_measure(self) -> Self:
        given = [name for name in _MEASURES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}, not both")
        return self

    @model_validator(mode="after")
    def _fit_granularity(self) -> Self:
        channels, kept = self.granularity == "channel", self.kept
        if kept and kept[0] >= kept[1]:
            raise ValueError(f"{self.granularity} keeps every weight: n must be less than m")
        if kept and self.amount is not None:
            raise ValueError(f"{self.granularity} says itself how much goes: give no amount")
        if self.criterion in (("wanda",) if channels else ("taylor", "bn_scale")):
            raise ValueError(f"{self.criterion} does not score {'channels' if channels else 'single weights'}")
        if not channels and (name := self._first_set(_OF_CHANNELS)):
            raise ValueError(f"{name} is for channels; the granularity is {self.granularity}")
        if kept and (name := self._first_set(("rounds", "analyze", "sensitivity", "overrides"))):
            raise ValueError(f"{name} is for amounts; {self.granularity} says itself how much goes, at once")
        return self

    @model_validator(mode="after")
    def _fit_rounds(self) -> Self:
        if self.rounds == 1 and (name := self._first_set(_OF_ROUNDS)):
            raise ValueError(f"{name} needs two rounds at least; there is one")
        if not self.recovery_epochs and (name := self._first_set(_OF_RECOVERY)):
            raise ValueError(f"{name} needs recovery_epochs; there are none")
        return self

    @model_validator(mode="after")
    def _fit_analysis(self) -> Self:
        if self.analyze and (name := self._first_set(_NOT_ANALYZED)):
            raise ValueError(f"an analysis removes nothing: give no {name}")
        if not self.analyze and (name := self._first_set(("budget_seconds",))):
            raise ValueError(f"{name} bounds an analysis: it needs analyze")
        if self.sensitivity is not None and self.scope == "layer":
            raise ValueError("scope layer takes the same share of every group, sensitivity does not: give one of them")
        return self

    def _first_set(self, names: tuple[str, ...]) -> str | None:
        """Name the first of these fields that is not at its default."""
        fields = type(self).model_fields
        return next((name for name in names if getattr(self, name) != fields[name].default), None)
