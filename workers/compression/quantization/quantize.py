"""Quantization: which code carries out which scheme, and what its file must show."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from app.domain.errors import NoChange, RecipeOrder
from app.domain.steps.quantize import QuantizeSpec
from workers.compression.network import Network
from workers.compression.quantization import cast, dynamic, qat, static, weight_only
from workers.compression.quantization.fusion import check_fused
from workers.compression.quantization.written import check_cast, check_dynamic, check_packed
from workers.compression.step import Context, StepResult

SCHEMES: dict[str, Callable[[Network, QuantizeSpec, Context], StepResult]] = {
    "static": static.run,
    "dynamic": dynamic.run,
    "weight_only": weight_only.run,
    "qat": qat.run,
    "cast": cast.run,
}
FILE_CHECKS: dict[str, Callable[[Path], Counter[str]]] = {
    "static": check_fused,
    "dynamic": check_dynamic,
    "weight_only": check_packed,
    "qat": check_fused,
    "cast": check_cast,
}


def run(network: Network, spec: QuantizeSpec, context: Context) -> StepResult:
    """Quantize by the scheme that the step names. Raises RecipeOrder and whatever the scheme raises."""
    if network.quantized:
        raise RecipeOrder("The network is quantized already; a second quantize step has nothing to work on.")
    return SCHEMES[spec.scheme](network, spec, context)


def check_file(path: Path, baseline: Path, spec: QuantizeSpec) -> None:
    """Make sure that a quantized file is what its scheme promises.

    Raises:
        CheckFailed: no layer runs as the scheme has it, or one runs as it should not.
        NoChange: the file is not smaller than the baseline's.
    """
    (check_packed if spec.packs else FILE_CHECKS[spec.scheme])(path)
    sizes = baseline.stat().st_size, path.stat().st_size
    if sizes[1] >= sizes[0]:
        raise NoChange(
            f"The quantized file has {sizes[1]} bytes, the one before quantization {sizes[0]}.",
            hint="The network is too small for what scales and operators cost: leave it in float.",
        )
