"""How far quantized values are from the float ones."""

import math

from torch import Tensor


def sqnr_db(signal: float, noise: float) -> float | None:
    """Give 10·log10(signal / noise) of two sums of squares; None where there is no noise, or no signal."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def energy(values: Tensor) -> float:
    """Give Σx²."""
    return float(values.double().square().sum())
