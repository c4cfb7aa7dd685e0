"""Admit ``.parquet`` files: their two ends fit together. The footer itself is read by pyarrow, within the sandbox."""

import os
from pathlib import Path

from app.domain.errors import CorruptFile, UnsafeFile

MAX_FOOTER_BYTES = 16 << 20
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_END_BYTES = 8
_HOW = "Write it with pyarrow.parquet.write_table."


def admit_parquet(path: Path) -> None:
    """Raise UnsafeFile or CorruptFile unless the file begins and ends as a Parquet file does."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(len(_MAGIC))
        stream.seek(max(0, size - _END_BYTES), os.SEEK_SET)
        end = stream.read(_END_BYTES)
    if _ENCRYPTED in {start, end[-4:]}:
        raise UnsafeFile("The file is encrypted.", hint="Write it in the clear.")
    if start != _MAGIC or end[-4:] != _MAGIC or size < len(_MAGIC) + _END_BYTES:
        raise CorruptFile("The file does not begin and end as a Parquet file does.", hint=_HOW)
    footer = int.from_bytes(end[:4], "little")
    if footer > MAX_FOOTER_BYTES:
        raise UnsafeFile(f"The file claims a footer of {footer} bytes; at most {MAX_FOOTER_BYTES} are read.", hint=_HOW)
    if not footer or footer > size - len(_MAGIC) - _END_BYTES:
        raise CorruptFile(f"The file claims a footer of {footer} bytes and holds {size}.", hint=_HOW)
