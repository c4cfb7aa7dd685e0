"""The space that a sweep takes where it is left to choose: what makes sense for a model and what is minimized."""

from typing import Any

from app.domain.model import ModelFacts

Template = tuple[dict[str, Any], ...]

_STATIC: dict[str, Any] = {"method": "quantize", "scheme": "static"}
_DYNAMIC: dict[str, Any] = {"method": "quantize", "scheme": "dynamic"}
_WEIGHTS: dict[str, Any] = {"method": "quantize", "scheme": "weight_only", "weights": {"choices": ["int8", "int4"]}}
_PRUNE = {"method": "prune", "granularity": "channel", "macs_ratio": {"low": 1.3, "high": 8.0, "log": True}}
_DISTILL = {
    "method": "distill",
    "epochs": {"choices": [3, 6, 10]},
    "learning_rate": {"low": 0.003, "high": 0.05, "log": True},
}


def auto_space(model: ModelFacts, minimize: str) -> tuple[Template, ...]:
    """List templates, the quickest first; what the model or the target has no place for is for others to leave out."""
    quantizers = [_STATIC] if any(layer.quantizable for layer in model.layers) else []
    quantizers += [_DYNAMIC, *([_WEIGHTS] if minimize == "size" else [])]
    # MACs are what they were with integers.
    found: list[Template] = [] if minimize == "macs" else [(quantizer,) for quantizer in quantizers]
    if model.trainable and any(layer.prunable for layer in model.layers):
        found += [(_PRUNE, _DISTILL), (_PRUNE, _DISTILL, quantizers[0])]
    return tuple(found)
