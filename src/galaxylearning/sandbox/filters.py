"""The list of system calls that a worker may make, as a BPF program. Everything else is refused with EPERM.

Pure: tables in, bytes out. What is not on the list need not be known: calls that a later kernel brings are
refused as well.

Source: seccomp(2), "Seccomp BPF" in the kernel's documentation; numbers from asm/unistd.h.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

ARCHITECTURES: Final = ("x86_64", "aarch64")
ALLOWED: Final[dict[str, tuple[int, int]]] = {
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # its one descriptor
    "read": (0, 63),
    "readv": (19, 65),
    "write": (1, 64),
    # waiting for itself; time; chance
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    # signals to its own handlers, and the end
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # facts about itself that libraries ask for
    "getpid": (39, 172),
    "gettid": (186, 178),
    "sched_getaffinity": (204, 123),
}
"""Name of a system call -> its number on each of the architectures."""
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD_WORD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_OFFSET_OF_NUMBER: Final = 0
_OFFSET_OF_ARCHITECTURE: Final = 4
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000


def worker_filter(machine: str) -> bytes:
    """The program for this architecture: eight bytes an instruction.

    A call that comes by another architecture's door (32-bit code) ends the process.

    Raises:
        ValueError: there is no table for ``machine``.
    """
    column = ARCHITECTURES.index(machine)
    numbers = sorted(number[column] for number in ALLOWED.values())
    allow = len(numbers) + 1
    instructions = [
        (_LOAD_WORD, 0, 0, _OFFSET_OF_ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _OFFSET_OF_NUMBER),
        *((_JUMP_IF_EQUAL, allow - i - 1, 0, number) for i, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
