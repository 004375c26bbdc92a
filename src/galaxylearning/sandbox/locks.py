"""Locking the processes of a worker, and trying whether the locks hold.

Two steps: ``lock_server`` for the process that keeps the libraries loaded, before a stranger's byte is near;
``lock_worker`` for the process that is forked from it for one training. Locks are layers: each that this
machine has is applied, and what counts is what a locked process can still do, which ``try_locks`` finds out
by trying it.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from galaxylearning.sandbox import kernel
from galaxylearning.sandbox.filters import ARCHITECTURES, worker_filter

STOPS: Final = {
    "files": "reads and writes no file of this machine",
    "network": "reaches no network and no other program",
    "processes": "starts, signals and looks into no process",
}
"""What a lock must stop, and what that means."""
BUBBLEWRAPPED: Final = "GALAXY_SANDBOX_BUBBLEWRAP"
"""Set in the environment of a server that bubblewrap started."""
_WORST_FOR_OOM: Final = b"1000"


class Locks(msgspec.Struct, frozen=True):
    """What locks a worker here: the layers that hold, and for each that does not, why.

    ``stopped`` is the part of ``STOPS`` that was tried on a locked process and failed, as it should.
    """

    layers: dict[str, str]
    missing: dict[str, str]
    stopped: tuple[str, ...] = ()

    @property
    def open(self) -> tuple[str, ...]:
        """The part of ``STOPS`` that a worker could do."""
        return tuple(name for name in STOPS if name not in self.stopped)


class Limits(msgspec.Struct, frozen=True):
    """Resource limits of a worker: bytes of address space in all, seconds of CPU, numbers of descriptors."""

    address_space_bytes: int
    cpu_s: int
    descriptors: int = 0


def isolate() -> tuple[dict[str, str], dict[str, str]]:
    """First of all, while there is one thread: leave the network. Layers that hold, and those that do not."""
    if os.environ.get(BUBBLEWRAPPED):
        return {"namespaces": "user, network, process, mount and IPC namespaces, by bubblewrap"}, {}
    try:
        kernel.leave_namespaces()
    except OSError as error:
        return {}, {"namespaces": str(error)}
    return {"namespaces": "user, network and IPC namespaces"}, {}


def lock_server() -> tuple[dict[str, str], dict[str, str]]:
    """Give up files, privileges and signals to others for good; layers that hold, and those that do not.

    Everything that will ever be loaded must be loaded.
    """
    layers: dict[str, str] = {}
    missing: dict[str, str] = {}

    def attempt(name: str, holds: str, lock: Callable[[], None]) -> None:
        try:
            lock()
        except OSError as error:
            missing[name] = str(error)
        else:
            layers[name] = holds

    with suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
        # Where memory runs out, a training ends before the node does.
        file.write(_WORST_FOR_OOM)
    attempt("no_new_privs", "nothing gains rights by being executed", kernel.no_new_privileges)
    attempt("capabilities", "none, root's are given up", kernel.drop_capabilities)
    attempt("dumpable", "no core dump, closed to debuggers of the same user", kernel.not_dumpable)
    version = kernel.landlock_version()
    if version:
        holds = f"version {version}: files"
        holds += ", TCP" if version >= kernel.NETWORK_VERSION else ""
        holds += ", signals" if version >= kernel.SCOPE_VERSION else ""
        attempt("landlock", holds, lambda: kernel.deny_files_and_network(version))
    else:
        missing["landlock"] = "the kernel does not offer it (Linux 5.13, CONFIG_SECURITY_LANDLOCK)"
    if kernel.machine() not in ARCHITECTURES:
        missing["seccomp"] = f"no list of system calls for {kernel.machine()}"
    return layers, missing


def lock_worker(keep: int, limits: Limits, parent: int) -> str | None:
    """Close everything but the descriptor ``keep``, which is above 2; limit resources; allow nothing else.

    Why the list of system calls could not be installed, or None: it holds.
    """
    os.closerange(0, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1] & 0x7FFFFFFF)
    with suppress(OSError):
        kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _limit("RLIMIT_AS", limits.address_space_bytes)
    # A signal that says why, and a second later one that nothing survives.
    _limit("RLIMIT_CPU", limits.cpu_s, limits.cpu_s + 1)
    for name in ("RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_NPROC", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE"):
        _limit(name, 0)
    _limit("RLIMIT_NOFILE", limits.descriptors)
    try:
        kernel.install_filter(worker_filter(kernel.machine()))
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _limit(name: str, soft: int, hard: int | None = None) -> None:
    """Lower a limit for good; one that the system does not know, or that is lower, stays as it is."""
    which = getattr(resource, name, None)
    if which is None:
        return
    now = resource.getrlimit(which)[1]
    most = soft if hard is None else hard
    if now != resource.RLIM_INFINITY:
        most = min(most, now)
    with suppress(OSError, ValueError):
        resource.setrlimit(which, (min(soft, most), most))


def try_locks(layers: dict[str, str], missing: dict[str, str], limits: Limits) -> Locks:
    """Fork a worker, lock it, let it try what it must not be able to do, and say what came of it."""
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _try_and_tell(writing, limits, parent)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read(4096)
    os.waitpid(pid, 0)
    try:
        stopped, filter_problem = msgspec.json.decode(told, type=tuple[tuple[str, ...], str | None])
    except msgspec.MsgspecError:
        return Locks(layers, {**missing, "seccomp": "the process that tried the locks ended"}, ())
    if filter_problem is None:
        layers = {**layers, "seccomp": "computing, and reading and writing one descriptor; no other call"}
    else:
        missing = {**missing, "seccomp": filter_problem}
    layers = {**layers, "rlimits": "memory, CPU time, no new descriptors, no file growth, no core"}
    if "namespaces" in layers:
        stopped = tuple({*stopped, "network"})
    return Locks(layers, missing, tuple(name for name in STOPS if name in stopped))


def _try_and_tell(writing: int, limits: Limits, parent: int) -> NoReturn:
    try:
        problem = lock_worker(writing, limits, parent)
        tried = {"files": (_open_a_folder, _open_a_device), "network": (_open_socket, _open_datagrams)}
        stopped = [name for name, ways in tried.items() if all(_is_denied(way) for way in ways)]
        if all(_is_denied(way) for way in (_fork, _execute, lambda: os.kill(parent, 0))):
            stopped.append("processes")
        os.write(writing, msgspec.json.encode((stopped, problem)))
    finally:
        os._exit(0)


def _is_denied(way: Callable[[], None]) -> bool:
    """Whether it is forbidden. Failing for want of something is not: a limit is no lock."""
    try:
        way()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _open_a_folder() -> None:
    os.open("/", os.O_RDONLY)


def _open_a_device() -> None:
    os.open("/dev/null", os.O_WRONLY)


def _open_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _open_datagrams() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _execute() -> None:
    # Were it allowed, this program would end and tell nothing: the locks then count as broken.
    os.execv(sys.executable, [sys.executable, "-c", "pass"])
