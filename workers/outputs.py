"""Files that a child wrote, read so that nothing it does meanwhile leads anywhere else.

The child owns all that is in its folder and may still run: a path that was checked may name another
file by the time it is opened. So a name is opened first, one step at a time and through no link, and
everything after is asked of the descriptor.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from workers.sandbox import ProtocolBreach

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# Without O_NONBLOCK, opening a fifo waits for somebody to write to it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Open a folder that the child may have replaced; its parent must be out of the child's reach."""
    try:
        descriptor = os.open(path, _FOLDER)
    except OSError as error:
        raise ProtocolBreach(f"{path.name} is no folder any more") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(name: str, folder: int) -> IO[bytes]:
    """Open a regular file of a folder.

    Raises:
        ProtocolBreach: it is something else, or stands under a second name, which may be outside.
        FileNotFoundError: there is nothing of this name.
    """
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link, a socket, no right to read it
        raise ProtocolBreach(f"{name} cannot be read: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise ProtocolBreach(f"{name} is no regular file of its own")
    return os.fdopen(descriptor, "rb")


def read_file(folder: Path, name: str, limit_bytes: int) -> bytes | None:
    """Read a small file whole, null where there is none. Raises ProtocolBreach above the limit too."""
    with opened_folder(folder) as descriptor:
        try:
            file = open_file(name, descriptor)
        except FileNotFoundError:
            return None
        with file:
            content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ProtocolBreach(f"{name} has more than {limit_bytes} bytes")
    return content
