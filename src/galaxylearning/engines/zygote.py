"""The process that loads the tensor library and the model once, and forks a worker whenever one is asked for.

Stays single-threaded and never computes a gradient, so that forking is safe and its pages stay shared. Ends
with all its workers when whoever started it closes the channel or ends.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from galaxylearning.engines.channel import (
    Channel,
    Closed,
    Ended,
    Fork,
    Forked,
    Message,
    Ready,
    Setup,
    Stop,
    refusal,
)
from galaxylearning.engines.shared_memory import SharedMemory
from galaxylearning.engines.worker import Worker
from galaxylearning.engines.worker_memory import fitting_workers, shared_bytes, worker_bytes
from galaxylearning.errors import ConfigRefused, GalaxyError

if TYPE_CHECKING:
    from galaxylearning.graph.flat import FlatModel

_PR_SET_PDEATHSIG = 1
_LOOK_AGAIN_S = 0.001


class Zygote:
    """Serves one parent over one channel."""

    def __init__(self, channel: Channel, parent: int) -> None:
        self._channel = channel
        self._parent = parent
        self._pid = os.getpid()
        self._children: set[int] = set()

    def serve(self) -> None:
        """Set up, then fork and stop workers as asked, until the parent is gone."""
        try:
            setup, descriptors = self._channel.wait(self._is_needed)
            if not isinstance(setup, Setup):
                return
            documents, arena = descriptors
            memory = SharedMemory(arena, setup.layout.size)
            memory.close_descriptor()
            try:
                model, workers = _build(setup, documents)
            except (GalaxyError, ValueError) as error:
                self._channel.send(refusal(0, error))
                return
            gc.collect()
            gc.freeze()
            _give_back_code()
            self._channel.send(Ready(workers))
            while True:
                asked, received = self._channel.wait(self._is_needed)
                self._channel.send(self._answer(asked, received, setup, model, memory))
        except Closed:
            return
        finally:
            for pid in list(self._children):
                self._end(pid, 0.0)

    def _is_needed(self) -> bool:
        return os.getppid() == self._parent

    def _answer(
        self, asked: Message, received: list[int], setup: Setup, model: FlatModel, memory: SharedMemory
    ) -> Message:
        if isinstance(asked, Fork):
            (end,) = received
            channel = Channel(socket.socket(fileno=end))
            pid = os.fork()
            if pid == 0:
                self._become_worker(Worker(asked.index, model, setup.plan, setup.layout, memory), channel)
            channel.close()
            self._children.add(pid)
            return Forked(pid)
        if isinstance(asked, Stop) and asked.pid in self._children:
            return Ended(self._end(asked.pid, asked.grace_s))
        raise Closed("asked for something unknown")

    def _become_worker(self, worker: Worker, channel: Channel) -> None:
        """The child's whole life; ends the process whatever happens."""
        code = 1
        try:
            self._channel.close()
            _end_with_parent()
            gc.enable()
            worker.serve(channel, lambda: os.getppid() == self._pid)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)

    def _end(self, pid: int, grace_s: float) -> int:
        """Wait for a child, kill it when its time is up; its exit code, or minus the signal's number."""
        deadline = time.monotonic() + grace_s
        found, status = os.waitpid(pid, os.WNOHANG)
        while not found:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                found, status = os.waitpid(pid, 0)
                break
            time.sleep(_LOOK_AGAIN_S)
            found, status = os.waitpid(pid, os.WNOHANG)
        self._children.discard(pid)
        return os.waitstatus_to_exitcode(status)


def _build(setup: Setup, documents: int) -> tuple[FlatModel, int]:
    """The model, metered against the budget before it is built, and how many workers fit.

    Raises:
        ConfigRefused: the tensor library is missing, or the budget is too small.
        GraphRefused: graph or weights are not acceptable.
    """
    try:
        from galaxylearning.graph.cost import meter
        from galaxylearning.graph.document import ModelGraph
        from galaxylearning.graph.flat import FlatModel
        from galaxylearning.graph.weights import weights_from_bytes
    except ImportError as error:
        raise ConfigRefused(
            f"needs PyTorch, which cannot be loaded: {error}", where="engine workers"
        ) from None
    held = SharedMemory(documents, setup.graph_bytes + setup.weights_bytes)
    held.close_descriptor()
    graph = ModelGraph.from_bytes(held.read(0, setup.graph_bytes))
    batch = min(setup.plan.batch_size, setup.layout.rows)
    each = worker_bytes(setup.layout, setup.weights_bytes, meter(graph, batch).activation_bytes, setup.plan)
    workers = fitting_workers(
        shared_bytes(setup.layout, setup.weights_bytes),
        each,
        setup.budget_bytes,
        least=setup.least_workers,
        most=setup.layout.workers,
    )
    data = held.read(setup.graph_bytes, setup.weights_bytes)
    return FlatModel(graph, weights_from_bytes(graph, data, max_bytes=len(data))), workers


def _end_with_parent() -> None:
    """Where the system offers it: be killed as soon as the parent ends, even in the midst of a step."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _give_back_code() -> None:
    """Let go of the program code that loading the libraries touched; what is run again is mapped again.

    Code is never written to, so dropping its pages loses nothing, and most of it serves no worker. Elsewhere
    than on Linux nothing is done.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == "r-xp" and fields[5].startswith("/"):
            start, end = (int(bound, 16) for bound in fields[0].split("-"))
            advise(start, end - start, mmap.MADV_DONTNEED)


def main() -> None:
    """``python -m galaxylearning.engines.zygote DESCRIPTOR PARENT``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Loading the tensor library makes a million objects that live for ever: looking for garbage among them
    # would take a fifth of the time. Workers collect again.
    gc.disable()
    descriptor, parent = map(int, sys.argv[1:3])
    Zygote(Channel(socket.socket(fileno=descriptor)), parent).serve()
    # Nothing is left to write; taking the tensor library down module by module would only take time.
    os._exit(0)


if __name__ == "__main__":
    main()
