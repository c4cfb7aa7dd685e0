"""The kernel's own sandbox for a process without privileges: files by path, TCP, signals, abstract sockets.

``landlock(7)``, linux/landlock.h. There is no wrapper in the C library; the numbers are the same on every machine.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

LEAST_ABI = 2
"""Before it, no file moves between folders."""
_TRUNCATE_ABI, _TCP_ABI, _DEVICE_ABI, SCOPES_ABI = 3, 4, 5, 6

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FOLDER, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_FOLDER, _MAKE_FILE, _MAKE_LINK, _REFER = 1 << 7, 1 << 8, 1 << 12, 1 << 13
_TRUNCATE, _DEVICE_CONTROL = 1 << 14, 1 << 15
_ALL_FILE_RIGHTS = (1 << 14) - 1
_TCP_BIND_AND_CONNECT = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

READ = _EXECUTE | _READ_FILE | _READ_FOLDER
USE_DEVICE = _READ_FILE | _WRITE_FILE | _DEVICE_CONTROL
CHANGE = (
    _READ_FILE
    | _READ_FOLDER
    | _WRITE_FILE
    | _REMOVE_FOLDER
    | _REMOVE_FILE
    | _MAKE_FOLDER
    | _MAKE_FILE
    | _MAKE_LINK
    | _REFER
    | _TRUNCATE
)
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_CONTROL


def abi() -> int:
    """Give the version of Landlock in this kernel; 0 where it has none, or has it turned off."""
    version: int = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(0, version)


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """Leave this process, for good, no more than ``rules``: rights over each path and all beneath it."""
    version = abi()
    handled = _ALL_FILE_RIGHTS
    handled |= _TRUNCATE if version >= _TRUNCATE_ABI else 0
    handled |= _DEVICE_CONTROL if version >= _DEVICE_ABI else 0
    ruleset = _create(version, handled)
    for path, rights in rules:
        _allow(ruleset, path, rights & handled)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _create(version: int, handled: int) -> int:
    """Make a ruleset that refuses all: files, TCP, and signals and abstract sockets out of the sandbox."""
    fields: Sequence[int] = [handled]
    if version >= _TCP_ABI:
        fields = [*fields, _TCP_BIND_AND_CONNECT]
    if version >= SCOPES_ABI:
        fields = [*fields, _ABSTRACT_SOCKETS_AND_SIGNALS]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    libc = ctypes.CDLL(None, use_errno=True)
    return _check(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, descriptor)
        libc = ctypes.CDLL(None, use_errno=True)
        _check(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
