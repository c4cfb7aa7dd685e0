"""Whether a recipe makes sense for a model and a data set, told before anything is queued."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from app.domain.dataset import DatasetFacts
from app.domain.errors import (
    DatasetMismatch,
    FieldError,
    LabelsOutOfRange,
    NoSensitivity,
    NothingToPrune,
    NothingToQuantize,
    NotTrainable,
    RecipeOrder,
    UnsupportedNetwork,
    UnsupportedPrecision,
    ValidationFailed,
    WinnowError,
)
from app.domain.job import JobSpec
from app.domain.model import Layer, ModelFacts, TensorSpec
from app.domain.recipe import Step
from app.domain.steps.prune import PruneSpec
from app.domain.steps.quantize import PRECISIONS, QuantizeSpec
from app.domain.target import BY_NAME

LABEL = "y"
ONLY_INPUT = "x"
# Some are held out to judge by, some more to choose the epoch by, and two at least must be left.
_FEWEST_TRAIN_ROWS = 5
_LAYERS_NAMED = 20
_WITHOUT_SPACE = frozenset({"linear", "embedding"})
_WITH_WEIGHTS = ("conv", "linear")


def check(spec: JobSpec, model: ModelFacts, dataset: DatasetFacts) -> None:
    """Raise the first reason for which the job could only fail."""
    _check_fields(model, dataset)
    _check_labels(model, dataset)
    _check_splits(spec, dataset)
    _check_order(spec, model)
    _check_analysis(spec)
    _check_steps(spec, model)


def check_uncut(before: tuple[Step, ...]) -> None:
    """Raise NoSensitivity where a step before one that takes a table prunes: it is of the network as uploaded."""
    if any(isinstance(step, PruneSpec) for step in before):
        raise NoSensitivity(
            "A step before it prunes, and the table is of the network as it was uploaded.",
            hint="Take the table in the first prune of the recipe, or prune in one step.",
        )


def check_sensitivity(spec: JobSpec, step: PruneSpec, analysis: JobSpec, dataset: DatasetFacts) -> None:
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


def refuse(error: type[WinnowError], pointer: str, message: str, hint: str | None = None) -> WinnowError:
    """Make an error with a pointer to the place of the payload that it is about."""
    return error(message, hint=hint, errors=[FieldError(pointer=pointer, message=message)])


def _mismatch(message: str) -> WinnowError:
    return refuse(DatasetMismatch, "/dataset_id", message)


def _check_fields(model: ModelFacts, dataset: DatasetFacts) -> None:
    fields = {field.name: field for field in dataset.fields}
    inputs = model.signature.inputs
    names = {tensor.name for tensor in inputs}
    known = names | {LABEL} | ({ONLY_INPUT} if len(inputs) == 1 else set())
    if extra := sorted(fields.keys() - known):
        raise _mismatch(f"The model has no input named {', '.join(extra)}; its inputs are {', '.join(sorted(names))}.")
    for tensor in inputs:
        field = fields.get(tensor.name) or (fields.get(ONLY_INPUT) if len(inputs) == 1 else None)
        if field is None:
            raise _mismatch(f"The data set has no field for the model's input {tensor.name!r}.")
        _check_rows(tensor, field)


def _check_rows(tensor: TensorSpec, field: TensorSpec) -> None:
    row = tensor.shape[1:]
    fits = len(row) == len(field.shape) and all(
        isinstance(wanted, str) or wanted == given for wanted, given in zip(row, field.shape, strict=True)
    )
    if not fits:
        raise _mismatch(
            f"A row of the field {field.name!r} has the shape {list(field.shape)}; "
            f"the model's input {tensor.name!r} takes {list(row)}."
        )
    # The engine casts between widths of floats: numpy makes float64 where nobody asks for another.
    both_float = field.dtype.startswith("float") and tensor.dtype.startswith("float")
    if field.dtype != tensor.dtype and not both_float:
        raise _mismatch(
            f"The field {field.name!r} holds {field.dtype}; the model's input {tensor.name!r} takes {tensor.dtype}."
        )


def _check_labels(model: ModelFacts, dataset: DatasetFacts) -> None:
    if dataset.classes is None:
        raise _mismatch(f"The data set has no class labels: accuracy needs a field {LABEL!r} of class indices.")
    output = model.signature.outputs[0]
    if len(output.shape) != 2 or not isinstance(output.shape[1], int):
        raise refuse(
            UnsupportedNetwork,
            "/model_id",
            f"The model's first output has the shape {list(output.shape)}; accuracy needs [batch, classes].",
        )
    if dataset.classes > output.shape[1]:
        message = f"The highest label is {dataset.classes - 1}; the model tells {output.shape[1]} classes apart."
        raise refuse(LabelsOutOfRange, "/dataset_id", message)


def _check_splits(spec: JobSpec, dataset: DatasetFacts) -> None:
    splits = dataset.splits
    if not {"train", "validation"} & splits.keys():
        raise _mismatch("The data set has neither a validation split nor a train split to cut one from.")
    for position, step in enumerate(spec.recipe):
        if step.trained_epochs and ("train" not in splits or splits["train"].samples < _FEWEST_TRAIN_ROWS):
            message = f"The step trains; the data set has fewer than {_FEWEST_TRAIN_ROWS} train rows."
            raise refuse(DatasetMismatch, f"/recipe/{position}", message)
        if isinstance(step, PruneSpec) and step.criterion == "taylor" and "train" not in splits:
            message = "taylor needs train rows to take gradients on; the data set has no train split."
            raise refuse(DatasetMismatch, f"/recipe/{position}/criterion", message)
        if isinstance(step, PruneSpec) and step.analyze and not {"train", "calibration"} & splits.keys():
            message = "An analysis measures on calibration or train rows, never on validation; there are neither."
            raise refuse(DatasetMismatch, f"/recipe/{position}", message)
        calibrates = (isinstance(step, QuantizeSpec) and step.calibrates) or (
            isinstance(step, PruneSpec) and step.criterion == "wanda"
        )
        if calibrates and not {"train", "calibration"} & splits.keys():
            message = "The step needs rows to calibrate on; the data set has neither a calibration nor a train split."
            raise refuse(DatasetMismatch, f"/recipe/{position}", message)


def _check_analysis(spec: JobSpec) -> None:
    for position, step in enumerate(spec.recipe):
        if not isinstance(step, PruneSpec) or not step.analyze:
            continue
        if len(spec.recipe) > 1:
            message = "An analysis is the only step of its job: it changes nothing that others could go on with."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)
        if spec.objective is not None:
            message = "An analysis compresses nothing that an objective could judge."
            raise refuse(ValidationFailed, "/objective", message)


def _check_order(spec: JobSpec, model: ModelFacts) -> None:
    for position, step in enumerate(spec.recipe):
        if isinstance(step, QuantizeSpec) and model.quantized:
            message = "The model is quantized already: quantize the one that it was made from."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)
    for position, (before, step) in enumerate(zip(spec.recipe, spec.recipe[1:], strict=False), start=1):
        if isinstance(before, QuantizeSpec):
            message = f"Nothing can follow quantize: move {step.method} before it."
            raise refuse(RecipeOrder, f"/recipe/{position}", message)


def _check_steps(spec: JobSpec, model: ModelFacts) -> None:
    for position, step in enumerate(spec.recipe):
        pointer = f"/recipe/{position}"
        if step.trained_epochs and not model.trainable:
            raise refuse(NotTrainable, pointer, "The step trains, and this network was exported without a way to.")
        if (
            isinstance(step, PruneSpec)
            and step.granularity == "channel"
            and not any(layer.prunable for layer in model.layers)
        ):
            raise refuse(NothingToPrune, pointer, f"No layer can lose channels. {_reasons(model.layers)}")
        if isinstance(step, PruneSpec):
            _check_criterion(step, model, f"{pointer}/criterion")
            _check_patterns(step, model, pointer)
            _check_left(step, model, pointer)
        if isinstance(step, QuantizeSpec):
            _check_quantize(step, spec.target, model, pointer)


def _check_quantize(step: QuantizeSpec, target: str, model: ModelFacts, pointer: str) -> None:
    precision = PRECISIONS[step.weights]
    if precision not in BY_NAME[target].precisions:
        message = f"{target} runs nothing stored as {precision}; it has {', '.join(BY_NAME[target].precisions)}."
        raise refuse(UnsupportedPrecision, f"{pointer}/weights", message)
    layers = [layer for layer in model.layers if _takes(step, layer)]
    if not layers or (step.calibrates and not any(layer.quantizable for layer in layers)):
        message = f"No layer can be quantized by the scheme {step.scheme}; there are: {_listed(model.layers)}."
        raise refuse(NothingToQuantize, pointer, message)
    _check_layers(step, layers, pointer)
    if all(_stays_float(step, layer) for layer in layers):
        place = f"{pointer}/exclude" if step.exclude else pointer
        raise refuse(NothingToQuantize, place, "Every layer that could be quantized is left in float.")


def _takes(step: QuantizeSpec, layer: Layer) -> bool:
    if step.packs or step.scheme == "dynamic":
        return layer.op in _WITHOUT_SPACE
    if step.calibrates:
        # The tables of embeddings go along, and no network is quantized for them alone.
        return layer.quantizable or layer.op == "embedding"
    return layer.op.startswith((*_WITH_WEIGHTS, "embedding"))


def _check_layers(step: QuantizeSpec, layers: Sequence[Layer], pointer: str) -> None:
    """Refuse patterns that match no layer, and widths of what has one only.

    Where a graph is quantized, ``exclude`` may mean an operator without weights, which only the run knows.
    """
    places = [(f"{pointer}/include/{place}", pattern) for place, pattern in enumerate(step.include)]
    if not step.calibrates:
        places += [(f"{pointer}/exclude/{place}", pattern) for place, pattern in enumerate(step.exclude)]
    places += [(f"{pointer}/overrides/{_escaped(pattern)}", pattern) for pattern in step.overrides]
    for place, pattern in places:
        if not any(_matches(pattern, layer) for layer in layers):
            message = f"No layer that {step.scheme} quantizes is named {pattern!r}; there are: {_listed(layers)}."
            raise refuse(ValidationFailed, place, message)
    for pattern, override in step.overrides.items():
        matched = [layer for layer in layers if _matches(pattern, layer)]
        if step.calibrates and override.bits is not None and all(layer.op == "embedding" for layer in matched):
            message = f"The table of {matched[0].name} is of bytes; bits are for layers that multiply."
            raise refuse(ValidationFailed, f"{pointer}/overrides/{_escaped(pattern)}/bits", message)


def _stays_float(step: QuantizeSpec, layer: Layer) -> bool:
    if step.include and not any(_matches(pattern, layer) for pattern in step.include):
        return True
    if any(_matches(pattern, layer) for pattern in step.exclude):
        return True
    override = next((given for pattern, given in step.overrides.items() if _matches(pattern, layer)), None)
    return override is not None and override.keep_float


def _matches(pattern: str, layer: Layer) -> bool:
    return layer.op == pattern or fnmatchcase(layer.name, pattern)


def _listed(layers: Sequence[Layer]) -> str:
    return ", ".join(f"{layer.name} ({layer.op})" for layer in layers[:_LAYERS_NAMED]) or "none"


def _check_criterion(step: PruneSpec, model: ModelFacts, pointer: str) -> None:
    if step.criterion == "taylor" and not model.trainable:
        message = "taylor takes gradients, and this network was exported without a way to."
        raise refuse(NotTrainable, pointer, message)
    if step.criterion == "bn_scale" and not any(layer.op == "batch_norm" and layer.prunable for layer in model.layers):
        message = "bn_scale reads the scales of batch norms, and none of this network's scales channels that can go."
        raise refuse(NothingToPrune, pointer, message)


def _check_patterns(step: PruneSpec, model: ModelFacts, pointer: str) -> None:
    names = [layer.name for layer in _prunable(step, model)]
    places = [(f"{pointer}/exclude/{place}", pattern) for place, pattern in enumerate(step.exclude)]
    places += [(f"{pointer}/overrides/{_escaped(pattern)}", pattern) for pattern in step.overrides]
    for place, pattern in places:
        if not any(fnmatchcase(name, pattern) for name in names):
            message = f"No layer that can be pruned is named {pattern!r}; there are: {', '.join(names)}."
            raise refuse(ValidationFailed, place, message)


def _escaped(key: str) -> str:
    """Write a key as RFC 6901 has it in a pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _prunable(step: PruneSpec, model: ModelFacts) -> list[Layer]:
    """List the layers that the step's granularity speaks of: single weights are those of convolutions and products."""
    if step.granularity == "channel":
        return [layer for layer in model.layers if layer.prunable]
    return [layer for layer in model.layers if layer.op.startswith(_WITH_WEIGHTS)]


def _check_left(step: PruneSpec, model: ModelFacts, pointer: str) -> None:
    """Raise NothingToPrune where no layer is left that the step could change."""
    named = _prunable(step, model)
    left = [layer for layer in named if not any(fnmatchcase(layer.name, pattern) for pattern in step.exclude)]
    if named and not left:
        message = f"Every layer that can be pruned is excluded: {_named(named)}."
        raise refuse(NothingToPrune, f"{pointer}/exclude", message, "Exclude fewer layers.")
    stays = not any(step.overrides.values()) and all(
        any(fnmatchcase(layer.name, pattern) for pattern in step.overrides) for layer in left
    )
    if left and stays:
        message = "The overrides leave every layer whole: each that can be pruned has the amount 0."
        raise refuse(NothingToPrune, f"{pointer}/overrides", message, "Give an amount above 0 to one layer at least.")
    if step.granularity == "channel":
        _check_floors(step, left, pointer)
        return
    if step.criterion == "wanda" and not any(layer.op == "linear" for layer in left):
        message = f"wanda scores linear layers only, and none is left; there are: {_named(left) or 'no layers'}."
        raise refuse(NothingToPrune, f"{pointer}/criterion", message, "Choose l1.")
    if step.kept and not any(_entering(layer) % step.kept[1] == 0 for layer in left):
        inputs = ", ".join(f"{layer.name} has {_entering(layer)}" for layer in left[:_LAYERS_NAMED])
        message = f"{step.granularity} needs a layer whose inputs {step.kept[1]} divides; {inputs or 'there is none'}."
        raise refuse(NothingToPrune, f"{pointer}/granularity", message)


def _check_floors(step: PruneSpec, left: list[Layer], pointer: str) -> None:
    makers = [layer for layer in left if layer.op.startswith(_WITH_WEIGHTS)]
    # A layer may hold its channels along either of the first two dimensions of its weight, heads even several times.
    widest = max((max(layer.weight_shape[:2]) for layer in makers), default=0)
    if makers and len(makers) == len(left) - _count(left, "norm") and step.minimum_channels >= widest:
        message = f"No layer has more channels than minimum_channels, {step.minimum_channels}."
        raise refuse(NothingToPrune, f"{pointer}/minimum_channels", message, "Lower it.")


def _count(layers: list[Layer], word: str) -> int:
    return sum(word in layer.op for layer in layers)


def _entering(layer: Layer) -> int:
    """Give the size of the dimension along which n:m works."""
    return layer.weight_shape[0 if layer.op.startswith("conv_transpose") else 1]


def _named(layers: list[Layer]) -> str:
    rest = len(layers) - _LAYERS_NAMED
    return ", ".join(layer.name for layer in layers[:_LAYERS_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _reasons(layers: tuple[Layer, ...]) -> str:
    named = "; ".join(f"{layer.name} ({layer.op}): {layer.reason}" for layer in layers[:_LAYERS_NAMED])
    rest = len(layers) - _LAYERS_NAMED
    return f"{named or 'It has no layers with weights'}{f'; and {rest} more' if rest > 0 else ''}."
