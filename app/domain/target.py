"""Where a compressed network will run."""

from pydantic import BaseModel, ConfigDict


class Target(BaseModel):
    """A runtime on a kind of device, with what it reads and computes in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    runtime: str
    device: str
    formats: tuple[str, ...]
    precisions: tuple[str, ...]
    """Those that weights can be stored in; sums are in int32 or float32."""


TARGETS = (
    # Of bfloat16 the runtime has no kernels at all on a CPU; float16 and int4 are unpacked on the way to float32.
    Target(
        name="onnxruntime-cpu",
        runtime="onnxruntime",
        device="cpu",
        formats=("onnx",),
        precisions=("float32", "float16", "int8", "int4"),
    ),
)
BY_NAME = {target.name: target for target in TARGETS}
