"""The process that loads the libraries once, locks itself, and forks a worker for each training.

Started as a program of its own, so that nothing of the node's memory is in it: no key, no data, no
passphrase. It reads no stranger's byte; workers do, and are locked further before they read the first one.
Stays single-threaded, so that forking is safe. Ends, and its worker with it, when the node closes the channel
or ends.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from galaxylearning.sandbox import kernel
from galaxylearning.sandbox.frames import (
    End,
    Ended,
    Fork,
    Forked,
    Gone,
    Ready,
    Status,
    Work,
    error_text,
    read_work,
    receive_message,
    send_message,
    write_answer,
)
from galaxylearning.sandbox.locks import Limits, Locks, isolate, lock_server, lock_worker, try_locks

Do: TypeAlias = Callable[[Work], tuple[Status, bytes]]
"""What a worker does with the work it is given."""
Loaded: TypeAlias = tuple[Do, dict[str, str]]
"""That, and facts about the libraries that were loaded for it."""
_TRIAL_BYTES = 1 << 30
_TRIAL_CPU_S = 10
_TRIAL_DESCRIPTORS = 64
_UNKNOWN_BYTES = 1 << 40
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Server:
    """Serves one node over one channel; one worker at a time. ``do`` is what a worker does."""

    def __init__(self, channel: socket.socket, do: Do, base_bytes: int, locks: Locks) -> None:
        self._channel, self._do, self._base_bytes = channel, do, base_bytes
        self._is_filtered = "seccomp" in locks.layers

    def serve(self) -> None:
        """Fork and end workers as asked, until the node is gone."""
        worker = 0
        try:
            while True:
                asked, descriptors = receive_message(self._channel)
                if isinstance(asked, Fork) and not worker and len(descriptors) == 1:
                    worker = self._fork(asked, descriptors[0])
                    send_message(self._channel, Forked(worker))
                elif isinstance(asked, End) and worker:
                    ended = _end(worker)
                    worker = 0
                    send_message(self._channel, ended)
                else:
                    return
        except Gone:
            return
        finally:
            if worker:
                _end(worker)

    def _fork(self, asked: Fork, end: int) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_worker(Limits(self._base_bytes + asked.memory_bytes, asked.cpu_s), end, parent)
        os.close(end)
        return pid

    def _be_worker(self, limits: Limits, end: int, parent: int) -> NoReturn:
        """The worker's whole life; ends the process whatever happens."""
        try:
            problem = lock_worker(end, limits, parent)
            gc.enable()
            if problem is not None and self._is_filtered:
                # What held when it was tried must hold now: nothing of a stranger's has been read yet.
                write_answer(end, Status.FAILED, f"could not be locked: {problem}".encode())
            else:
                write_answer(end, *self._done(end))
        finally:
            os._exit(0)

    def _done(self, end: int) -> tuple[Status, bytes]:
        try:
            return self._do(read_work(end))
        except MemoryError:
            return Status.OUT_OF_MEMORY, b""
        except Exception as error:  # noqa: BLE001
            # A mistake of ours that a stranger's graph found: it ends this training and nothing else.
            return Status.FAILED, error_text(error, type(error).__name__)


def _end(pid: int) -> Ended:
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return Ended(
        os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _RSS_UNIT
    )


def run(descriptor: int, load: Callable[[], Loaded]) -> NoReturn:
    """Isolate, load, lock, say that all is ready, and serve. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    channel = socket.socket(fileno=descriptor)
    layers, missing = isolate()
    # The libraries make a million objects that live for ever: looking for garbage among them takes time.
    gc.disable()
    do, loaded = load()
    gc.collect()
    gc.freeze()
    is_linux = sys.platform.startswith("linux")
    threads = kernel.thread_count() if is_linux else 1
    base = kernel.address_space_bytes() if is_linux else _UNKNOWN_BYTES
    locked, unlocked = lock_server()
    trial = Limits(base + _TRIAL_BYTES, _TRIAL_CPU_S, _TRIAL_DESCRIPTORS)
    locks = try_locks({**layers, **locked}, {**missing, **unlocked}, trial)
    try:
        send_message(channel, Ready(locks, threads, loaded))
        os.dup2(0, 2)
        Server(channel, do, base, locks).serve()
    except Gone:
        pass
    # Nothing is left to write; taking the libraries down module by module would only take time.
    os._exit(0)


def load_training() -> Loaded:
    """Everything that training can need, loaded and run once, because a locked process can load nothing."""
    import torch

    from galaxylearning.sandbox.warming import warm_up
    from galaxylearning.sandbox.work import do

    warm_up()
    return do, {"torch": str(torch.__version__), "torch_threads": str(torch.get_num_threads())}


def main() -> None:
    """``python -m galaxylearning.sandbox.server DESCRIPTOR``."""
    run(int(sys.argv[1]), load_training)


if __name__ == "__main__":
    main()
