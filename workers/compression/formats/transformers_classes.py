"""Classes of ``transformers``, told by its own tables and built from a configuration; weights go in by their names.

The library is imported by these functions alone: it takes seconds, which other formats need not pay. It is asked for
nothing that it would look up elsewhere, and nothing that came with the weights is ever run.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from app.domain.errors import CorruptFile, UnsafeFile, UnsupportedNetwork, WinnowError

EXPORT = "Export the network yourself, with torch.export.export, and upload the .pt2."
CLASSES = {
    "MODEL_MAPPING_NAMES": ("AutoModel", ("last_hidden_state",)),
    "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES": ("AutoModelForTextEncoding", ("last_hidden_state",)),
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": ("AutoModelForSequenceClassification", ("logits",)),
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": ("AutoModelForTokenClassification", ("logits",)),
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": ("AutoModelForQuestionAnswering", ("start_logits", "end_logits")),
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": ("AutoModelForMaskedLM", ("logits",)),
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": ("AutoModelForCausalLM", ("logits",)),
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": ("AutoModelForImageClassification", ("logits",)),
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES": ("AutoModelForSemanticSegmentation", ("logits",)),
}
"""For each of the library's tables, from kinds of network to classes: what builds them, and what they give."""
_ELSEWHERE = frozenset({"transformers_weights", "fusion_config", "distributed_config", "kernel_config", "name_or_path"})
"""Keys of a configuration that tell the library where to look and how to run, not what to build."""
_EAGER = "eager"
"""Attention in plain products and a softmax, which export with sizes of any length and which every step knows."""
_SLACK_PARTS, _SLACK_ELEMENTS = 256, 1 << 24
_SAID = 400
_NO_MEMORY = "not enough memory"
"""What torch's own error says."""


@dataclass(frozen=True)
class Known:
    """A class that the library has for a configuration."""

    name: str
    auto: str
    outputs: tuple[str, ...]


def known_class(config: Mapping[str, Any]) -> Known:
    """Find the class that a configuration names. Raises UnsupportedNetwork where the library has no such one."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    kind, name = config["model_type"], config["architectures"][0]
    if kind not in CONFIG_MAPPING:
        raise UnsupportedNetwork(f"transformers knows no networks of the kind {kind!r}.", hint=EXPORT)
    known: set[str] = set()
    for table, (auto, outputs) in CLASSES.items():
        found = getattr(modeling_auto, table).get(kind, ())
        names = (found,) if isinstance(found, str) else tuple(found)
        if name in names and config.get("is_encoder_decoder") and auto != "AutoModelForTextEncoding":
            message = f"{name} is an encoder with a decoder, which takes more than one text at a time."
            raise UnsupportedNetwork(message, hint=EXPORT)
        if name in names:
            return Known(name, auto, outputs)
        known.update(names)
    has = f"has {', '.join(sorted(known))}" if known else "none that is read"
    raise UnsupportedNetwork(f"config.json names the class {name}; of the kind {kind!r} there {has}.", hint=EXPORT)


def build(known: Known, config: Mapping[str, Any], weights: dict[str, Tensor]) -> tuple[nn.Module, frozenset[str]]:
    """Build the network in float32 around its weights; give the names of those that it wants and does not find.

    Raises:
        UnsafeFile: the configuration asks for far more than the weights hold.
        CorruptFile: a weight has another shape than the configuration says.
        UnsupportedNetwork: there are weights that the class has no place for, or it cannot be built.
    """
    import transformers

    auto = getattr(transformers, known.auto)
    with in_our_words(f"transformers cannot build {known.name} from config.json"):
        settings = _settings(config)
        with torch.device("meta"), _bounded(weights):
            class_ = type(auto.from_config(settings, attn_implementation=_EAGER, dtype=torch.float32))
        if class_.__name__ != known.name:
            raise UnsupportedNetwork(f"config.json names {known.name} and describes a {class_.__name__}.", hint=EXPORT)
        network, told = class_.from_pretrained(
            None,
            config=settings,
            state_dict=weights,
            attn_implementation=_EAGER,
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    for name, given, wanted in sorted(told["mismatched_keys"]):
        message = f"The weight {name!r} has the shape {list(given)}; by config.json it is {list(wanted)}."
        raise CorruptFile(message, hint="Save both anew with model.save_pretrained(folder).")
    if told["unexpected_keys"]:
        message = f"{known.name} has no place for the weights {listed(told['unexpected_keys'])}."
        raise UnsupportedNetwork(message, hint="Name the class that they belong to under architectures.")
    return network.eval(), frozenset(told["missing_keys"])


def listed(names: Iterator[str] | set[str] | frozenset[str]) -> str:
    """Name the first three, and how many there are."""
    found = sorted(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(repr(name[:80]) for name in found[:3]) + more


@contextmanager
def in_our_words(what: str) -> Iterator[None]:
    """Raise as UnsupportedNetwork what the library, or torch within it, raises at what it was given.

    Where memory or room ran out, that is no fault of the network's.
    """
    try:
        yield
    except (WinnowError, MemoryError):
        raise
    except Exception as error:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or _NO_MEMORY in str(error):
            raise
        said = " ".join(str(error).split())[:_SAID]
        raise UnsupportedNetwork(f"{what}: {type(error).__name__}: {said}", hint=EXPORT) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's own hints and bars of progress out of a job's log."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _settings(config: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in _ELSEWHERE}
    # What is asked of a network is told by its class; a cache or other results would only come beside it.
    kept |= {"return_dict": True, "use_cache": False, "output_hidden_states": False, "output_attentions": False}
    return CONFIG_MAPPING[config["model_type"]].from_dict(kept)


@contextmanager
def _bounded(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop the building of a network as soon as it has much more in it than these weights fill."""
    # Tied weights are made twice and stored once.
    parts = 2 * len(weights) + _SLACK_PARTS
    elements = 2 * sum(tensor.numel() for tensor in weights.values()) + _SLACK_ELEMENTS
    left = {"parts": parts, "modules": 16 * parts, "elements": elements}

    def take(what: str, count: int) -> None:
        left[what] -= count
        if left[what] < 0:
            raise UnsafeFile(
                f"config.json asks for far more than its weights hold, which are {len(weights)} tensors.",
                hint="Save both anew with model.save_pretrained(folder).",
            )

    def taken(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            take("parts", 1)
            take("elements", math.prod(tensor.shape))

    def placed(_module: nn.Module, _name: str, part: nn.Module | None) -> None:
        if part is not None:
            take("modules", 1)

    hooks = [
        register_module_parameter_registration_hook(taken),
        register_module_buffer_registration_hook(taken),
        register_module_module_registration_hook(placed),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
