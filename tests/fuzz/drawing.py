"""Networks, data sets and recipes at random; many fit each other, and some do not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from tests.fuzz.networks import Column, Pooled, Several, Text, Two, image_layers, table_layers

SAMPLES = (1, 2, 5, 17, 40, 130)
FAMILIES = ("table", "table", "image", "image", "series", "text", "two", "segmentation")
LABELS = ("classes",) * 4 + ("floats", "several", "none", "one", "ignored")


@dataclass(frozen=True)
class Drawn:
    """A network, what makes n rows of each input, and how many ``classes`` it tells apart.

    ``form`` is the shape of what is judged by itself: () for a row, else the places of a row.
    """

    family: str
    net: nn.Module
    inputs: Mapping[str, Callable[[int], np.ndarray]]
    form: tuple[int, ...]
    classes: int

    def told(self) -> dict[str, Any]:
        return {"family": self.family, "form": self.form, "classes": self.classes, "network": str(self.net)}


def draw_network(rng) -> Drawn:
    family, classes = rng.choice(FAMILIES), rng.choice((1, 2, 3, 4, 10))
    draws = np.random.default_rng(rng.getrandbits(32))
    form: tuple[int, ...] = ()

    def floats(*shape):
        return lambda n: draws.normal(size=(n, *shape)).astype(np.float32)

    match family:
        case "table":
            fields = rng.choice((1, 2, 5, 16))
            body, inputs = table_layers(rng, fields), {"x": floats(fields)}
            net = nn.Sequential(body, nn.Linear(body.width, classes))
        case "text":
            words, length, by_position = rng.choice((2, 20)), rng.choice((1, 2, 6)), rng.random() < 0.5
            classes, form = (rng.choice((words, classes)), (length,)) if by_position else (classes, ())
            net = Text(rng, words, length, classes, by_position)
            inputs = {"ids": lambda n: draws.integers(0, words, (n, length))}
            if rng.random() < 0.5:
                ends = lambda n: draws.integers(1, length + 1, (n, 1))  # noqa: E731 - of the rows of the mask
                inputs["mask"] = lambda n: (np.arange(length) < ends(n)).astype(np.int64)
        case "two":
            fields, kinds = rng.choice((1, 5)), rng.choice((2, 20))
            net = Two(rng, kinds, fields, classes)
            inputs = {"table": floats(fields), "kind": lambda n: draws.integers(0, kinds, n)}
        case _:
            channels, size, dimensions = rng.choice((1, 3, 4)), rng.choice((1, 2, 5, 8)), 1 + (family != "series")
            body, inputs = image_layers(rng, channels, dimensions), {"x": floats(channels, *[size] * dimensions)}
            net = nn.Sequential(Pooled(body, dimensions), nn.Linear(body.width, classes))
            if family == "segmentation":
                net, form = nn.Sequential(body, nn.Conv2d(body.width, classes, 1)), (size, size)
    if not form and rng.random() < 0.1:
        net = Several(net, rng.choice(("dict", "tuple")))
    elif not form and classes == 1 and rng.random() < 0.5:
        net = Column(net)
    return Drawn(family, net, inputs, form, classes)


def draw_data(rng, drawn: Drawn, names) -> dict[str, np.ndarray]:
    """Give the arrays of an npz whose inputs have these names."""
    kind, content = rng.choice(LABELS), {}
    splits = ["train", "validation", *(["calibration"] if rng.random() < 0.4 else [])]
    for split in splits:
        n = rng.choice(SAMPLES)
        content |= {f"{split}.{name}": draw(n) for name, draw in zip(names, drawn.inputs.values(), strict=True)}
        labels = _draw_labels(rng, drawn, n, kind)
        if labels is not None and (split != "calibration" or rng.random() < 0.5):
            content[f"{split}.y"] = labels
    return content


def _draw_labels(rng, drawn, n, kind):
    draws = np.random.default_rng(rng.getrandbits(32))
    match kind:
        case "none":
            return None
        case "floats":
            return draws.normal(size=(n,) if isinstance(drawn.net, Column) else (n, drawn.classes)).astype(np.float32)
        case "several":
            return (draws.random((n, drawn.classes)) < 0.3).astype(np.int64)
        case "one":
            return np.zeros((n, *drawn.form), np.int64)
    found = draws.integers(0, drawn.classes, (n, *drawn.form))
    if kind == "ignored":
        found[draws.random(found.shape) < 0.2] = -100
    return found


def draw_job(rng, layers) -> dict[str, Any]:
    """Give the body of a job; ``layers`` are names that its recipe can tell of."""
    job = {"model_id": f"mdl_{0:026}", "dataset_id": f"dst_{0:026}"}
    job["recipe"] = [_draw_step(rng, layers) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    return job | _some(
        rng,
        objective=({"max_drop": 0.0}, {"max_drop": 0.05}, {"max_drop": 1.0}),
        latency=({"batch_sizes": [1, 8]}, {"batch_sizes": [4]}, {"batch_sizes": [1000]}),
        task=(None, None, "embedding", "language_modelling", "regression"),
    )


def _draw_step(rng, layers):
    method = rng.choice(("prune", "prune", "distill", "finetune", "quantize", "quantize", "quantize"))
    return {"method": method} | _FIELDS[method](rng, layers)


def _some(rng, **fields):
    """Take some of the fields, each with a value of those that it may have."""
    return {name: rng.choice(values) for name, values in fields.items() if rng.random() < 0.3}


def _of_pruning(rng, layers):
    if rng.random() < 0.1:
        return {"analyze": True, "budget_seconds": 5}
    fields = _some(
        rng,
        granularity=("channel", "weight", "2:4", "1:8"),
        amount=(0.01, 0.3, 0.5, 0.95),
        criterion=("l1", "l2", "taylor", "bn_scale", "wanda", "random"),
        scope=("global", "layer"),
        round_to=(1, 2, 8),
        exclude=([rng.choice(layers)],),
        minimum_channels=(2, 4),
    )
    if rng.random() < 0.3:
        fields = {name: fields[name] for name in fields.keys() - {"amount"}}
        fields[rng.choice(("macs_ratio", "parameters_ratio"))] = rng.choice((1.1, 2, 4))
    rounds = {"rounds": 2, "recovery_epochs": rng.choice((0, 1))}
    return fields | (rounds if rng.random() < 0.2 else {})


def _of_training(rng, _layers):
    return {"epochs": rng.choice((1, 2))} | _some(
        rng,
        learning_rate=(1e-3, 0.1, 10.0),
        batch_size=(1, 2, 64),
        optimizer=("sgd", "adamw"),
        ema=(0.9,),
        schedule=("cosine", "constant"),
        clip_norm=(1.0,),
        accumulate=(2, 5),
        mixup=(0.4,),
        warm_up_epochs=(0.5, 0),
        class_weights=("balanced",),
        precision=("bf16", "float32"),
        augment=({"flip": True}, {"crop": 1, "cutout": 2}),
        early_stopping=(1,),
    )


def _of_finetuning(rng, layers):
    return _of_training(rng, layers) | _some(rng, label_smoothing=(0.1,))


def _of_distilling(rng, layers):
    return _of_training(rng, layers) | _some(
        rng,
        loss=("kd", "dkd", "mse", "cosine", "hint"),
        alpha=(0.5, 1.0),
        logit_standardization=(True,),
        temperature=(1.0, 8.0),
        student=({"width": 0.5}, {"depth": 0.5}, {"width": 0.5, "depth": 0.5}),
    )


def _of_quantizing(rng, layers):
    scheme = rng.choice(("static", "static", "dynamic", "weight_only", "qat", "cast"))
    return {"scheme": scheme} | _some(
        rng,
        weights=("int4", "int8"),
        observer=("minmax", "percentile", "histogram", "mse"),
        samples=(1, 3, 500),
        batch_size=(1, 7),
        bias_correction=("on", "off"),
        smooth_quant=("on", "off"),
        symmetric_activations=(True,),
        group_size=(32, 128),
        symmetric=(True,),
        epochs=(1,),
        gate_rows=(1, 50),
        exclude=([rng.choice(layers)], ["*.0"]),
        include=([rng.choice(layers)],),
    )


_FIELDS = {"prune": _of_pruning, "finetune": _of_finetuning, "distill": _of_distilling, "quantize": _of_quantizing}
