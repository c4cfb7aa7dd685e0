"""Folders of Hugging Face's libraries as one file, of which the same folder always gives the same bytes."""

import shutil
import zipfile
from pathlib import Path

from winnow.errors import ConfigurationError

CONFIG, WEIGHTS = "config.json", "*.safetensors"
_READ = (CONFIG, WEIGHTS, "*.safetensors.index.json", "preprocessor_config.json")
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path, path: Path) -> None:
    """Write what the service reads of a folder into a zip, as it lies: weights pack badly.

    Raises ConfigurationError where the folder holds no such network.
    """
    names = sorted({file.name for pattern in _READ for file in folder.glob(pattern) if file.is_file()})
    if CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
        raise ConfigurationError(
            f"{folder} holds no {CONFIG} with {WEIGHTS} beside it.",
            code="no_model",
            hint="Save the network with model.save_pretrained(folder), or upload a .pt2 or .onnx file.",
        )
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            told = zipfile.ZipInfo(name, _FIRST_DAY)
            told.file_size = (folder / name).stat().st_size  # by which the archive chooses between 32 and 64 bits
            with (folder / name).open("rb") as source, archive.open(told, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
