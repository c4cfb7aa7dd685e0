"""What figures were measured on."""

import platform
from functools import cache
from pathlib import Path

import onnxruntime
import torch

from app.domain.report import Environment

_CPUINFO = Path("/proc/cpuinfo")
_EXTENSIONS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip
VNNI = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""Each sums products of eight-bit integers in 32 bits, so that nothing saturates on the way."""


@cache
def _cpuinfo() -> dict[str, str]:
    """Read the first processor's block of /proc/cpuinfo; empty where there is none."""
    try:
        block = _CPUINFO.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def isa() -> tuple[str, ...]:
    """Name the vector extensions that this processor has, of those that matter for inference."""
    cpuinfo = _cpuinfo()
    flags = set(cpuinfo.get("flags", cpuinfo.get("Features", "")).split())
    return tuple(name for name in _EXTENSIONS if name in flags)


def has_vnni() -> bool:
    """Tell whether sums of eight-bit products are kept in 32 bits by one instruction."""
    return not VNNI.isdisjoint(isa())


def read_environment(threads: int, service_version: str) -> Environment:
    """Describe this machine and its versions; ``threads`` are those that the figures were measured with."""
    return Environment(
        cpu=_cpuinfo().get("model name") or platform.processor() or platform.machine(),
        isa=isa(),
        threads=threads,
        torch=str(torch.__version__),
        onnxruntime=str(onnxruntime.__version__),
        python=platform.python_version(),
        service=service_version,
    )
