"""The list of system calls that a worker may make, as a BPF program. Everything else is refused with EPERM.

Pure: tables in, bytes out. What is not on the list need not be known: calls that a later kernel brings are
refused as well.

Source: seccomp(2), "Seccomp BPF" in the kernel's documentation; numbers from asm/unistd.h.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

ALLOWED: Final = (
    # memory
    "brk mmap munmap mprotect mremap madvise "
    # its one descriptor, and closing it
    "read readv write close lseek fstat "
    # waiting for itself; time; chance
    "futex sched_yield nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday getrandom "
    # signals to its own handlers, and the end
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall exit exit_group "
    # facts about itself that libraries ask for
    "getpid gettid getrusage sched_getaffinity set_robust_list rseq membarrier getcpu"
).split()

_NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "readv": 19, "sched_yield": 24,
        "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "gettimeofday": 96,
        "getrusage": 98, "sigaltstack": 131, "gettid": 186, "futex": 202, "sched_getaffinity": 204,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
        "exit_group": 231, "set_robust_list": 273, "getcpu": 309, "getrandom": 318, "membarrier": 324,
        "rseq": 334,
    },
    "aarch64": {
        "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "fstat": 80, "exit": 93, "exit_group": 94,
        "futex": 98, "set_robust_list": 99, "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114,
        "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128,
        "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
        "getrusage": 165, "getcpu": 168, "gettimeofday": 169, "getpid": 172, "gettid": 178, "brk": 214,
        "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278,
        "membarrier": 283, "rseq": 293,
    },
}  # fmt: skip
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

ARCHITECTURES: Final = tuple(_NUMBERS)

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
        KeyError: there is no table for ``machine``.
    """
    numbers = sorted(_NUMBERS[machine][name] for name in ALLOWED)
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
