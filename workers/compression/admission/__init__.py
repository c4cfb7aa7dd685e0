"""What a file must be before any library opens it: standard library and pydantic alone, nothing runs from the file.

``admit(path, format)`` is the way in. It does not replace the sandbox, nor the sandbox it.
"""

from collections.abc import Callable
from pathlib import Path

from app.domain.errors import UnknownFormat
from workers.compression.admission.huggingface import admit_huggingface
from workers.compression.admission.images import admit_tar, admit_zip
from workers.compression.admission.npz import admit_npz
from workers.compression.admission.onnx import admit_onnx
from workers.compression.admission.parquet import admit_parquet
from workers.compression.admission.pt2 import admit_pt2
from workers.compression.admission.safetensors import admit_safetensors

__all__ = ["FORMATS", "admit"]

FORMATS: dict[str, Callable[[Path], None]] = {
    "pt2": admit_pt2,
    "onnx": admit_onnx,
    "huggingface": admit_huggingface,
    "npz": admit_npz,
    "safetensors": admit_safetensors,
    "zip": admit_zip,
    "tar": admit_tar,
    "parquet": admit_parquet,
}


def admit(path: Path, format: str) -> None:  # noqa: A002 - the name that the tasks and the API have
    """Let a file of this format pass.

    Raises:
        CorruptFile: the file is damaged.
        UnsafeFile: it holds something that is not admitted; told are what, where and what to do.
        NonFiniteWeights: a weight is NaN or infinite.
    """
    check = FORMATS.get(format)
    if check is None:
        raise UnknownFormat(f"{format!r} is no format that is read; read are {', '.join(FORMATS)}.")
    check(path)
