"""What Linux offers a process to give up for good: thin wrappers over system calls, by ctypes.

Each call either did what it says when it returns, or raises ``OSError``. Elsewhere than on Linux each raises
``OSError`` with ``ENOSYS``. Policy is in ``locks``.

Source: landlock(7), seccomp(2), prctl(2), capset(2), unshare(2), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWNET: Final = 0x40000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWUTS: Final = 0x04000000

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2

# The same numbers on every architecture that Linux got after 5.1 or that uses the generic table.
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_QUERY_VERSION: Final = 1
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}

FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""Rights over files that exist from this landlock version on, counted from the lowest bit."""
NETWORK_VERSION: Final = 4
"""From this landlock version on, binding and connecting TCP sockets can be denied."""
SCOPE_VERSION: Final = 6
"""From this one on, so can signals and abstract sockets to processes outside."""
_CONNECT_AND_BIND: Final = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11
_CAPABILITY_VERSION: Final = 0x20080522


def machine() -> str:
    """The architecture that this process runs as, as the kernel calls it."""
    return os.uname().machine


def landlock_version() -> int:
    """The version of landlock's interface; 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        return _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_QUERY_VERSION)
    except OSError:
        return 0


def no_new_privileges() -> None:
    """Nothing executed from here on can gain rights (set-user-id bits, file capabilities)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(signal_number: int) -> None:
    """Get this signal when the parent ends. The caller must check that it is still there."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def not_dumpable() -> None:
    """No core dump, and no other process of this user may look into this one's memory."""
    _prctl(_PR_SET_DUMPABLE, 0)


def leave_namespaces() -> None:
    """Move to a network with no interface, and to an empty space of shared memory and message queues.

    Works without privileges where user namespaces are allowed. The process must have one thread.
    """
    if _library().unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0:
        _raise("unshare")


def drop_capabilities() -> None:
    """Give up every capability, root's as well."""
    number = _CAPSET.get(machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"no number for capset on {machine()}")
    _syscall(number, ctypes.c_char_p(struct.pack("<Ii", _CAPABILITY_VERSION, 0)), ctypes.c_char_p(bytes(24)))


def deny_files_and_network(version: int) -> None:
    """Landlock with no rule at all: nothing can be opened, made, renamed, removed or executed from here on.

    From version 4 no TCP socket can be bound or connected, from version 6 no signal leaves. What is open
    stays open. Needs ``no_new_privileges``.
    """
    files = (1 << max(bits for since, bits in FILE_RIGHTS.items() if since <= version)) - 1
    handled = [files]
    if version >= NETWORK_VERSION:
        handled.append(_CONNECT_AND_BIND)
    if version >= SCOPE_VERSION:
        handled.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    ruleset = _syscall(_LANDLOCK_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    try:
        _syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def install_filter(program: bytes) -> None:
    """From here on the kernel asks this BPF program about each system call. Needs ``no_new_privileges``."""
    length = len(program) // 8
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", length, ctypes.addressof(held))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(described))


def address_space_bytes() -> int:
    """How large this process's address space is."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def thread_count() -> int:
    """How many threads this process has, those of libraries included."""
    return len(os.listdir("/proc/self/task"))


def _library() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, f"not on {sys.platform}")
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, first: int, second: object = 0) -> None:
    call = _library().prctl
    if call(option, ctypes.c_ulong(first), second, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        _raise(f"prctl {option}")


def _syscall(number: int, *arguments: object) -> int:
    call = _library().syscall
    call.restype = ctypes.c_long
    as_long = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(call(ctypes.c_long(number), *as_long))
    if result < 0:
        _raise(f"system call {number}")
    return result


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
