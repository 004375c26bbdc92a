"""A server whose workers do what an attacker would who had taken one over: started in place of the real one.

Everything before the worker's work is the real thing: the same server, the same locks. The graph of a request
is the name of an attack, its terms an argument. An attack that tries what must be denied tells how it went;
one on the answer itself writes what it likes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from galaxylearning.sandbox import kernel, server
from galaxylearning.sandbox.frames import Status, Work
from galaxylearning.sandbox.locks import Locks, try_locks
from galaxylearning.sandbox.server import Loaded, run

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
MAX_DESCRIPTOR = 1024


def call(number: int, *arguments: int | bytes | None) -> int:
    """A system call by number, past every library."""
    result = int(LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def connect(family: int, kind: int, address: object) -> None:
    with socket.socket(family, kind) as end:
        end.connect(address)  # type: ignore[arg-type]


def bind(kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as end:
        end.bind(("127.0.0.1", 0))


def start_a_thread() -> None:
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise OSError(1, str(error)) from None


def fork_bomb() -> None:
    while True:
        os.fork()


def read_memory(pid: int) -> None:
    with open(f"/proc/{pid}/mem", "rb") as file:
        file.read(1)


def write_file(path: str) -> None:
    with open(path, "w") as file:
        file.write("taken over")


def writable_descriptors() -> list[int]:
    """Every descriptor that takes a write of nothing."""
    found = []
    for descriptor in range(MAX_DESCRIPTOR):
        try:
            os.write(descriptor, b"")
        except OSError:
            continue
        found.append(descriptor)
    return found


def attempts(argument: str) -> dict[str, Callable[[], object]]:
    """What must be denied, by name. The argument names a file, a port, or a process, as the attack wants."""
    number = int(argument) if argument.isdecimal() else 0
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
    inet, unix = socket.AF_INET, socket.AF_UNIX
    x86 = os.uname().machine == "x86_64"
    return {
        "open": lambda: os.open(argument, os.O_RDONLY),
        "open by path": lambda: os.open(argument, os.O_PATH),
        "list": lambda: os.listdir(argument),
        "stat": lambda: os.stat(argument),
        "write": lambda: write_file(argument),
        "append": lambda: os.open(argument, os.O_WRONLY | os.O_APPEND),
        "remove": lambda: os.unlink(argument),
        "rename": lambda: os.rename(argument, argument + ".taken"),
        "make folder": lambda: os.mkdir(argument),
        "change folder": lambda: os.chdir(argument),
        "change mode": lambda: os.chmod(argument, 0o644),
        "connect tcp": lambda: connect(inet, tcp, ("127.0.0.1", number)),
        "connect outside": lambda: connect(inet, tcp, ("192.0.2.1", 80)),
        "send datagram": lambda: connect(inet, udp, ("127.0.0.1", number)),
        "connect unix": lambda: connect(unix, tcp, argument),
        "bind tcp": lambda: bind(tcp),
        "bind udp": lambda: bind(udp),
        "raw socket": lambda: socket.socket(inet, socket.SOCK_RAW),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "socket pair": socket.socketpair,
        "pipe": os.pipe,
        "duplicate": lambda: os.dup(writable_descriptors()[0]),
        "fork bomb": fork_bomb,
        "vfork": lambda: call(58 if x86 else 220, 17),
        "clone3": lambda: call(435, bytes(88), 88),
        "thread": start_a_thread,
        "execute": lambda: os.execv("/bin/sh", ["sh", "-c", "true"]),
        "kill": lambda: os.kill(number, signal.SIGKILL),
        "kill all": lambda: os.kill(-1, signal.SIGKILL),
        "stop group": lambda: os.killpg(number, signal.SIGSTOP),
        "pidfd": lambda: os.pidfd_open(number),
        "trace": lambda: call(101 if x86 else 117, 16, number, 0, 0),
        "read memory by call": lambda: call(310 if x86 else 270, number, bytes(16), 1, bytes(16), 1, 0),
        "write memory by call": lambda: call(311 if x86 else 271, number, bytes(16), 1, bytes(16), 1, 0),
        "read memory by file": lambda: read_memory(number),
        "read environment": lambda: os.open(f"/proc/{number}/environ", os.O_RDONLY),
        "read own files": lambda: os.listdir("/proc/self/fd"),
        "memory file": lambda: os.memfd_create("x"),
        "io_uring": lambda: call(425, 8, bytes(120)),
        "bpf": lambda: call(321 if x86 else 280, 0, bytes(128), 128),
        "user fault": lambda: call(323 if x86 else 282, 0),
        "key ring": lambda: call(250 if x86 else 219, 0, -3, 0),
        "perf": lambda: call(298 if x86 else 241, bytes(128), 0, -1, -1, 0),
        "mount": lambda: call(165 if x86 else 40, b"none", b"/", b"tmpfs", 0, None),
        "unshare": lambda: call(272 if x86 else 97, 0x10000000),
        "set namespace": lambda: call(308 if x86 else 268, 0, 0),
        "chroot": lambda: os.chroot("/"),
        "be root": lambda: os.setuid(0),
        "be traceable": lambda: call(157 if x86 else 167, 4, 1, 0, 0, 0),
        "outlive the server": lambda: call(157 if x86 else 167, 1, 0, 0, 0, 0),
        "raise limits": lambda: call(302 if x86 else 261, 0, 7, bytes(16), None),
        "new seccomp": lambda: call(317 if x86 else 277, 0, 0, None),
        "reboot": lambda: call(169 if x86 else 142, 0, 0, 0, None),
        "set clock": lambda: call(227 if x86 else 112, 0, bytes(16)),
        "shared memory": lambda: call(29 if x86 else 194, 0, 4096, 0o1600),
        "message queue": lambda: call(240 if x86 else 180, b"/x", 0o102, 0o600, None),
    }


def raw(data: bytes) -> None:
    """Write to the one descriptor there is, past the frame."""
    (descriptor,) = writable_descriptors()
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def send(data: bytes) -> None:
    raw(data)
    leave()


def flood() -> None:
    while True:
        raw(bytes(1 << 20))


def head(status: int, length: int, magic: bytes = b"GLW1") -> bytes:
    return struct.pack("<4sIQ", magic, status, length)


def spin() -> None:
    while True:
        pass


def wait_for_ever() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def leave() -> None:
    os._exit(7)


OWN_ENDS: dict[str, Callable[[], object]] = {
    "spin": spin,
    "wait for ever": wait_for_ever,
    "allocate 64 GiB": lambda: bytearray(64 << 30),
    "map 64 GiB": lambda: mmap.mmap(-1, 64 << 30),
    "leave": leave,
    "crash": lambda: ctypes.string_at(8),
    "nothing": lambda: send(b""),
    "half a head": lambda: send(head(0, 8)[:7]),
    "garbage": lambda: send(b"\x80\x04\x95" + bytes(range(200))),
    "unknown status": lambda: send(head(99, 8) + bytes(8)),
    "too little": lambda: send(head(0, 8) + bytes(5)),
    "too much": lambda: send(head(0, 8) + bytes(9)),
    "kept unasked": lambda: send(head(7, 8) + bytes(8)),
    "kept twice": lambda: send(2 * (head(7, 8) + bytes(8)) + head(0, 8) + bytes(8)),
    "kept too long": lambda: send(head(7, 2**40) + bytes(16)),
    "kept by half": lambda: send(head(7, 8) + bytes(5)),
    "too long": lambda: send(head(0, 16) + bytes(16)),
    "too long by far": lambda: send(head(0, 2**63) + bytes(16)),
    "long error": lambda: send(head(1, 1 << 30) + bytes(1 << 20)),
    "flood": flood,
}


def do(work: Work) -> tuple[Status, bytes]:
    if work.request.kind == "train":
        # Three integers, given as the weights.
        return Status.DONE, work.state
    name, argument = work.graph.decode(), work.terms.decode()
    if name == "three parameters":
        return Status.DONE, struct.pack("<8q", 3, 12, 0, 0, 0, 0, 0, 0)
    if name == "fewer than none":
        return Status.DONE, struct.pack("<8q", -3, 12, 0, 0, 0, 0, 0, 0)
    if name == "honest":
        return Status.DONE, argument.encode()
    if name == "descriptors":
        return Status.FAILED, str(len(writable_descriptors())).encode()
    if name == "environment":
        return Status.FAILED, ",".join(sorted(os.environ)).encode()
    if name in OWN_ENDS:
        OWN_ENDS[name]()
        return Status.FAILED, b"ALLOWED"
    try:
        attempts(argument)[name]()
    except OSError as error:
        return Status.FAILED, f"denied: {os.strerror(error.errno or 0)}".encode()
    return Status.FAILED, b"ALLOWED"


def load() -> Loaded:
    "localhost".encode("idna")  # loaded before the lock, as everything is that a worker needs
    return do, {}


def have_no_locks() -> None:
    """Be on a machine that offers none of them."""

    def absent(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    for name in ("leave_namespaces", "install_filter", "drop_capabilities", "no_new_privileges"):
        setattr(kernel, name, absent)
    kernel.landlock_version = lambda: 0


def lose_the_filter() -> None:
    """Have it while it is tried, and not afterwards."""

    def try_and_lose(*arguments: Any) -> Locks:
        found = try_locks(*arguments)
        have_no_locks()
        return found

    vars(server)["try_locks"] = try_and_lose


if __name__ == "__main__":
    if "unlocked" in sys.argv:
        have_no_locks()
    if "losing" in sys.argv:
        lose_the_filter()
    run(int(sys.argv[-1]), load)
