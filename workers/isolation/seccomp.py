"""A filter on system calls: what a numerical program never needs answers EPERM, what is newer than us ENOSYS.

Beside the other walls it closes what they leave open: sockets of every family, calls that change a file's
mode or owner (which Landlock does not see), memory that no process is charged for, new namespaces, a
session of one's own, and the kernel's less trodden paths.
"""

import ctypes
import errno
import os
import struct

from workers.isolation.syscalls import AUDIT_ARCH, FIRST_SHARED, NUMBERS, SHARED_ALLOWED

# linux/bpf_common.h and linux/filter.h: class | size or operation | mode
_LOAD = 0x20
_AND = 0x54
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_SET = 0x45
_RETURN = 0x06

# linux/seccomp.h
_MODE_FILTER = 2
_KILL = 0x80000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NUMBER_OFFSET = 0
_ARCH_OFFSET = 4
_X32_BIT = 0x40000000

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NAMESPACES = 0x7E020000
_ACCESS_AND_TRUNCATE = os.O_ACCMODE | os.O_TRUNC

# Judged by an argument rather than refused altogether.
_JUDGED = frozenset({"clone", "prctl", "open", "openat", "prlimit64", "kill", "tgkill"})

Instruction = bytes


def program(machine: str, *, signals: bool) -> list[Instruction]:
    """Write the filter for a machine; without ``signals`` the process may send them to itself alone."""
    numbers = NUMBERS[machine]
    filter_ = [
        _load(_ARCH_OFFSET),
        _step(_JUMP_EQUAL, AUDIT_ARCH[machine], then=1),
        _answer(_KILL),
        _load(_NUMBER_OFFSET),
        _step(_JUMP_SET, _X32_BIT, otherwise=1),
        _answer(_KILL),
    ]
    for name, number in numbers.items():
        if name not in _JUDGED:
            filter_ += [_step(_JUMP_EQUAL, number, otherwise=1), _answer(_ERRNO | errno.EPERM)]
    for number in SHARED_ALLOWED.values():
        filter_ += [_step(_JUMP_EQUAL, number, otherwise=1), _answer(_ALLOW)]
    filter_ += [_step(_JUMP_GREATER_EQUAL, FIRST_SHARED, otherwise=1), _answer(_ERRNO | errno.ENOSYS)]
    for name, judgement in _judgements(signals=signals).items():
        if name in numbers:
            filter_ += [_step(_JUMP_EQUAL, numbers[name], otherwise=len(judgement)), *judgement]
    return [*filter_, _answer(_ALLOW)]


def _judgements(*, signals: bool) -> dict[str, list[Instruction]]:
    """Give what decides on each call that is refused for some arguments."""
    # Reading is no leave to truncate, which Landlock sees only from its third version on.
    truncates = [_step(_AND, _ACCESS_AND_TRUNCATE), *_refuse_if(_JUMP_EQUAL, os.O_RDONLY | os.O_TRUNC)]
    judgements = {
        "clone": [_argument(0), *_refuse_if(_JUMP_SET, _CLONE_NAMESPACES)],
        # The tether to the supervisor stays.
        "prctl": [_argument(0), *_refuse_if(_JUMP_EQUAL, _PR_SET_PDEATHSIG)],
        "open": [_argument(1), *truncates],
        "openat": [_argument(2), *truncates],
        "prlimit64": [_argument(0), *_refuse_unless(0)],
    }
    if not signals:
        judgements |= {name: [_argument(0), *_refuse_unless(os.getpid())] for name in ("kill", "tgkill")}
    return judgements


def _refuse_if(test: int, value: int) -> list[Instruction]:
    return [_step(test, value, otherwise=1), _answer(_ERRNO | errno.EPERM), _answer(_ALLOW)]


def _refuse_unless(value: int) -> list[Instruction]:
    return [_step(_JUMP_EQUAL, value, then=1), _answer(_ERRNO | errno.EPERM), _answer(_ALLOW)]


def _argument(index: int) -> Instruction:
    """Load the low half of an argument, on little-endian machines; the kernel takes these as 32 bits."""
    return _load(16 + 8 * index)


def _load(offset: int) -> Instruction:
    return _step(_LOAD, offset)


def _answer(value: int) -> Instruction:
    return _step(_RETURN, value)


def _step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> Instruction:
    return struct.pack("=HBBI", code, then, otherwise, value)


def install(*, signals: bool) -> None:
    """Put the filter on this process, for good, and for what it starts and executes."""
    instructions = program(os.uname().machine, signals=signals)
    code = ctypes.create_string_buffer(b"".join(instructions))
    header = struct.pack("HP", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0)):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({arguments[0]}) failed: {os.strerror(number)}")
