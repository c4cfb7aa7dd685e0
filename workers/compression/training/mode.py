"""How fast a training may compute: in bfloat16, with channels last, compiled; chosen once, before its first batch.

What was measured may come out otherwise another time, and with it the bytes of the result. So rules on the processor
and on what there is to compute go first, the margin is wide, and a checkpoint and the report keep the choice
(decision 20).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from app.domain.steps.training import TrainingSpec
from workers.compression.environment import isa
from workers.compression.inference import first_output

BF16_PRODUCTS = frozenset({"avx512_bf16", "amx_bf16"})
"""Extensions that multiply bfloat16; without one of them it is slower than float32."""
LEAST_MULTIPLICATIONS = 100_000_000
"""Of one batch; below, calls and copies take the time, and not products."""
LEAST_BATCHES = 200
"""Of the training: eight steps that measure should cost it no more than a few hundredths."""
BF16_MARGIN = 1.3
"""How much faster bfloat16 must be: networks that pass the rules came to 1.6 or more, those below to 1.14 at most."""
LEAST_COMPILED_SECONDS = 900.0
"""Of the training: on network F compiling took 33 to 46 seconds and made a step 1.07 to 1.11 times as fast."""
COMPILED_MARGIN = 1.05
_REPEATS = 3

Log = Callable[[str, str], None]


@dataclass(frozen=True)
class Mode:
    """How a training computes; ``reason`` says for the report why."""

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    reason: str = "as the step asks"

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "float32"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Load:
    """What a training has to compute: one batch, its multiplications forward, and how many batches there are."""

    inputs: tuple[Tensor, ...]
    multiplications: Callable[[], int]
    batches: int


def choose_mode(module: nn.Module, spec: TrainingSpec, load: Load, log: Log) -> Mode:
    """Choose as the step asks, or by rule and measurement; leave the module as it was."""
    device = load.inputs[0].device
    if device.type == "cuda":
        mode = _for_gpu(spec, takes_channels_last(module, load.inputs))
    else:
        mode = _for_processor(module, spec, load, isa())
    if spec.compile == "auto":
        mode = _with_compiling(module, mode, load, log)
    return mode


def _for_gpu(spec: TrainingSpec, channels_last: bool) -> Mode:  # noqa: FBT001 - what was found out of the module
    if spec.precision != "auto":
        return Mode(bf16=spec.precision == "bf16", channels_last=channels_last)
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    reason = "the GPU multiplies bfloat16" if able else "the GPU multiplies no bfloat16"
    return Mode(bf16=able, channels_last=channels_last, reason=reason)


def _for_processor(module: nn.Module, spec: TrainingSpec, load: Load, extensions: Sequence[str]) -> Mode:
    if spec.precision != "auto":
        return Mode(bf16=spec.precision == "bf16")
    if BF16_PRODUCTS.isdisjoint(extensions):
        return Mode(reason="the processor multiplies no bfloat16")
    if load.batches < LEAST_BATCHES:
        return Mode(reason=f"the training has {load.batches} batches, too few to measure on")
    if (multiplications := load.multiplications()) < LEAST_MULTIPLICATIONS:
        return Mode(reason=f"a batch has {multiplications:,} multiplications, too few to gain from")
    float32, bf16 = compare(module, (module, module), (Mode(), Mode(bf16=True)), load.inputs)
    ratio = float32 / bf16
    return Mode(bf16=ratio >= BF16_MARGIN, reason=f"bfloat16 was measured to be {ratio:.2f} times as fast as float32")


def _with_compiling(module: nn.Module, mode: Mode, load: Load, log: Log) -> Mode:
    """Compile where it can pay; where there is no compiler, or anything else is amiss, say so and go without."""
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):  # noqa: SLF001
        log("not compiled: something watches the network's layers", "info")
        return mode
    seconds = compare(module, (module,), (mode,), load.inputs)[0] * load.batches
    if seconds < LEAST_COMPILED_SECONDS:
        log(f"not compiled: the training takes about {seconds:.0f} s, less than compiling could pay for", "info")
        return mode
    try:
        plain, compiled = compare(module, (module, compiled_form(module)), (mode, mode), load.inputs)
    except Exception as error:  # noqa: BLE001 - compilers fail in as many ways as there are machines
        log(f"not compiled: {type(error).__name__}: {error}"[:500], "warning")
        return mode
    log(f"compiled, a step was measured to be {plain / compiled:.2f} times as fast", "info")
    return replace(mode, compiled=plain / compiled >= COMPILED_MARGIN)


def compiled_form(module: nn.Module) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(module)
    return compiled


def takes_channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Tell whether the network is one of images whose graph bears strides of that order, by running it once."""
    if not any(value.ndim == 4 for value in inputs):
        return False
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module.eval()(*(with_layout(value) for value in inputs))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # a view that was exported for the other order
        return False
    finally:
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return True


def with_layout(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def autocast(mode: Mode, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if mode.bf16 else nullcontext()


def compare(
    module: nn.Module,
    forms: tuple[Callable[..., Any], ...],
    modes: tuple[Mode, ...],
    inputs: tuple[Tensor, ...],
) -> tuple[float, ...]:
    """Give the seconds of a step in each form and mode: the least of three, taken in turn, behind one to warm up.

    Weights, running statistics and random numbers are afterwards as they were.
    """
    before = {name: value.clone() for name, value in module.state_dict().items()}
    least = [float("inf")] * len(forms)
    training = module.training
    module.train()
    try:
        with torch.random.fork_rng(devices=[]):
            for repeat in range(1 + _REPEATS):
                for place, (form, mode) in enumerate(zip(forms, modes, strict=True)):
                    seconds = _step(form, mode, inputs)
                    least[place] = min(least[place], seconds) if repeat else least[place]
    finally:
        module.load_state_dict(before)
        module.zero_grad(set_to_none=True)
        module.train(training)
    return tuple(least)


def _step(form: Callable[..., Any], mode: Mode, inputs: tuple[Tensor, ...]) -> float:
    began = time.perf_counter()
    with autocast(mode, inputs[0].device):
        loss = first_output(form(*inputs)).float().square().mean()
    loss.backward()
    if inputs[0].device.type == "cuda":
        torch.cuda.synchronize(inputs[0].device)
    return time.perf_counter() - began
