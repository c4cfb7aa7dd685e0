"""Scales of weights, one an output channel: what is simulated, trained and written takes them from here."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e import ObserverBase
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from workers.compression.quantization.ranges import SMALLEST_SCALE

BIAS_REACH = 2.0**30
"""A stored bias is at most this, half of what 32 bits hold: sums are added to it, and float32 rounds 2³¹ − 1 up."""


def weight_scales(weight: Tensor, bound: int) -> Tensor:
    """Give one scale an output channel, s = max|w| / bound."""
    return (weight.flatten(1).abs().amax(1) / bound).clamp(min=SMALLEST_SCALE)


def least_scales(bias: Tensor, input_scale: float | Tensor) -> Tensor:
    """Give the scales of weights in which a bias, an integer in units of s_x · s_w, is ``BIAS_REACH``.

    Only a channel that hardly reads its input comes near: n weights rounded to this scale are off by no more than
    n · 255 / 2³¹ of the bias, together.
    """
    return bias.abs() / (input_scale * BIAS_REACH)


def round_weight(weight: Tensor, scales: Tensor, bound: int) -> Tensor:
    """Quantize and dequantize a weight, symmetric within ±bound, one scale an output channel."""
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -bound, bound)


class PerChannelGiven(ObserverBase):  # type: ignore[misc]
    """Holds scales that are known. torchao tells by the name that there is one a channel."""

    def __init__(self, scales: Tensor, dtype: torch.dtype, **encoding: Any) -> None:
        super().__init__(dtype, is_dynamic=False)
        self.scales = scales
        self.quant_min, self.quant_max = encoding["quant_min"], encoding["quant_max"]
        self.qscheme, self.ch_axis = encoding["qscheme"], encoding["ch_axis"]

    def forward(self, x: Tensor) -> Tensor:
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        return self.scales, torch.zeros(len(self.scales), dtype=torch.int64)


@dataclass(eq=True, frozen=True)
class WeightSpec(QuantizationSpec):  # type: ignore[misc]
    """What a weight becomes; torchao hands each field to the observer that it makes."""

    scales: Tensor = field(default_factory=lambda: torch.empty(0), compare=False)


def weight_spec(scales: Tensor, bound: int) -> WeightSpec:
    """Say that a weight is symmetric int8 within ±bound on given scales."""
    return WeightSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=PerChannelGiven,
        quant_min=-bound,
        quant_max=bound,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        scales=scales,
    )
