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


TARGETS = (
    Target(
        name="onnxruntime-cpu", runtime="onnxruntime", device="cpu", formats=("onnx",), precisions=("float32", "int8")
    ),
)
