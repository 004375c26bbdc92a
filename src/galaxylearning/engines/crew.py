"""The processes of the workers engine, seen from the caller's: started, fed, watched, replaced, ended.

Knows where results lie, not what they mean. Imports no tensor library.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from galaxylearning.engines.channel import (
    Channel,
    Closed,
    Diverged,
    Done,
    Ended,
    Fork,
    Forked,
    Message,
    Ready,
    Refused,
    Setup,
    Stop,
    Task,
    raise_refusal,
)
from galaxylearning.engines.shared_memory import PLACES, Array, SharedMemory
from galaxylearning.errors import ConfigRefused, StorageError

MAX_DEATHS = 3
"""So many workers may die of one owner's training; then the owner has failed."""
MAX_STARTS = 2
_LOOK_S = 1.0
_GRACE_S = 2.0

Outcome: TypeAlias = Done | Diverged | Refused
Place: TypeAlias = Callable[[int, Array, Array], None]
"""Writes an owner's inputs and labels where a worker finds them."""


@dataclass(slots=True, eq=False)
class Job:
    """One owner's training: where its result goes, how many rows it has, the state of its generator."""

    owner: int
    slot: int
    rows: int
    rng: bytes
    number: int = 0
    deaths: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    index: int
    pid: int
    channel: Channel
    places: tuple[tuple[Array, Array], ...]
    jobs: deque[tuple[Job, int]] = field(default_factory=deque)
    """In flight, oldest first, with the place its rows lie in."""
    since: float = 0.0
    has_delivered: bool = False


class _ZygoteGone(Exception):  # noqa: N818
    """The zygote ended or no longer answers."""


class Crew:
    """A zygote and up to ``layout.workers`` workers over one shared arena.

    ``stall_s``: a worker that is silent for longer than this while it has work is killed.
    """

    def __init__(
        self,
        setup: Setup,
        documents: tuple[bytes, bytes],
        arena: SharedMemory,
        place: Place,
        *,
        stall_s: float,
    ) -> None:
        self._setup, self._documents, self._arena, self._place = setup, documents, arena, place
        self._stall_s = stall_s
        self._numbers = 0
        self._waiting: deque[Job] = deque()
        self._given_up: list[tuple[Job, Outcome]] = []
        self._workers: dict[int, _Worker] = {}
        self._most = 0
        self._is_ready = self._is_closed = False
        self._starts = 0
        self._selector = selectors.DefaultSelector()
        self._runs = False
        try:
            self._launch()
        except BaseException:
            self.close()
            raise

    # ---- work

    @property
    def pids(self) -> tuple[int, ...]:
        """Process numbers of the zygote and of the workers that run."""
        return (self._process.pid, *(worker.pid for worker in self._workers.values()))

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs and put idle workers to them; their slots are written until :meth:`finished` names them.

        Raises:
            StorageError, ConfigRefused, GraphRefused: as :meth:`finished`.
        """
        for job in jobs:
            self._numbers += 1
            job.number = self._numbers
            self._waiting.append(job)
        try:
            self.ready()
            self._deal()
        except _ZygoteGone:
            self._restart()

    def finished(self) -> list[tuple[Job, Outcome]]:
        """Wait until at least one job has come to an end; whatever ended, with its outcome.

        Raises:
            StorageError: the processes cannot be kept alive.
            ConfigRefused: the model does not fit the memory budget, or cannot be run here.
            GraphRefused: the graph or its weights are not acceptable.
        """
        found: list[tuple[Job, Outcome]] = []
        while not found:
            if not self._waiting and not any(worker.jobs for worker in self._workers.values()):
                raise ValueError("nothing was submitted")
            try:
                self.ready()
                self._deal()
                if not self._given_up:
                    self._collect(found)
                # Whoever has become free works on while the caller looks at what was found.
                self._deal()
            except _ZygoteGone:
                self._restart()
            found += self._given_up
            self._given_up.clear()
        return found

    def begin(self) -> None:
        """Forget what is queued and wait for what is in training: no slot is written, a round may begin.

        Raises:
            StorageError, ConfigRefused, GraphRefused: as :meth:`finished`.
        """
        self._waiting.clear()
        while any(worker.jobs for worker in self._workers.values()):
            self.finished()
            self._waiting.clear()
        self.ready()
        self._starts = 1

    def ready(self) -> int:
        """Wait until the model is built; how many workers there may be.

        Raises:
            StorageError, ConfigRefused, GraphRefused: as :meth:`finished`.
        """
        if self._is_closed:
            raise ValueError("the engine is closed")
        while not self._is_ready:
            try:
                answer = self._answer()
            except _ZygoteGone:
                self._restart()
                continue
            if isinstance(answer, Refused):
                self.close()
                raise_refusal(answer)
            if isinstance(answer, Ready):
                self._most = answer.workers
                self._is_ready = True
        return self._most

    def close(self) -> None:
        """End all processes and let go of the memory; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._waiting.clear()
        self._end_all(_GRACE_S if self._is_ready else 0.0)
        self._selector.close()
        self._arena.close_descriptor()

    # ---- dealing and collecting

    def _deal(self) -> None:
        """Give every worker something to do; more workers are forked while there is more to do."""
        while self._waiting:
            worker = self._free_worker()
            if worker is None:
                return
            job = self._waiting.popleft()
            used = {place for _, place in worker.jobs}
            place = next(place for place in range(PLACES) if place not in used)
            inputs, labels = worker.places[place]
            self._place(job.owner, inputs[: job.rows], labels[: job.rows])
            if not worker.jobs:
                worker.since = time.monotonic()
            worker.jobs.append((job, place))
            try:
                worker.channel.send(Task(job.number, job.slot, place, job.rows, job.rng))
            except (Closed, TimeoutError):
                # One that has worked before ended while it was idle: not this owner's doing.
                self._bury(worker, is_blamed=not worker.has_delivered)

    def _free_worker(self) -> _Worker | None:
        """A worker without work, or a new one, or one whose next job can lie ready.

        Towards the end of a round nothing is laid ready: it might wait behind a long job while others idle.
        """
        for worker in self._workers.values():
            if not worker.jobs:
                return worker
        if len(self._workers) < self._most:
            return self._hire()
        if len(self._waiting) <= self._most:
            return None
        fewest = min(self._workers.values(), key=lambda worker: len(worker.jobs))
        return fewest if len(fewest.jobs) < PLACES else None

    def _collect(self, found: list[tuple[Job, Outcome]]) -> None:
        """Take in what workers report; look after those that ended or are silent."""
        for key, _ in self._selector.select(self._patience()):
            worker = key.data
            if worker is None:
                raise _ZygoteGone
            try:
                message, _ = worker.channel.receive(timeout_s=_LOOK_S)
            except (Closed, TimeoutError):
                self._bury(worker)
                continue
            job, _ = worker.jobs[0] if worker.jobs else (None, 0)
            if job is None or not isinstance(message, Outcome) or message.number != job.number:
                self._bury(worker, grace_s=0.0)
                continue
            worker.jobs.popleft()
            worker.since = time.monotonic()
            worker.has_delivered = True
            found.append((job, message))
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if worker.jobs and now - worker.since > self._stall_s:
                self._bury(worker)

    def _patience(self) -> float:
        now = time.monotonic()
        left = [worker.since + self._stall_s - now for worker in self._workers.values() if worker.jobs]
        return max(0.0, min([_LOOK_S, *left]))

    # ---- workers

    def _hire(self) -> _Worker:
        index = next(i for i in range(self._most) if i not in self._workers)
        ours, theirs = Channel.pair()
        try:
            answer = self._ask(Fork(index), [theirs.fileno()])
        except _ZygoteGone:
            ours.close()
            raise
        finally:
            theirs.close()
        if not isinstance(answer, Forked):
            ours.close()
            raise _ZygoteGone
        worker = _Worker(index, answer.pid, ours, self._setup.layout.places(self._arena, index))
        self._workers[index] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _bury(self, worker: _Worker, *, grace_s: float = _GRACE_S, is_blamed: bool = True) -> None:
        """A worker is gone, or is to go: its jobs are done again, unless the first has cost too many."""
        is_silent = bool(worker.jobs) and time.monotonic() - worker.since > self._stall_s
        answer = self._ask(Stop(worker.pid, 0.0 if is_silent else grace_s))
        if not isinstance(answer, Ended):
            raise _ZygoteGone
        jobs = self._dismiss(worker)
        if jobs and is_blamed:
            guilty = jobs[0]
            guilty.deaths += 1
            if guilty.deaths >= MAX_DEATHS:
                reason = f"gave no answer for {self._stall_s:g} s" if is_silent else _manner(answer.code)
                text = f"the worker process {reason}; {MAX_DEATHS} were lost over this data owner"
                self._given_up.append((guilty, Diverged(guilty.number, text)))
                jobs = jobs[1:]
        self._waiting.extendleft(reversed(jobs))

    def _dismiss(self, worker: _Worker) -> list[Job]:
        """Strike a worker from the list; what it had in flight."""
        self._selector.unregister(worker.channel)
        worker.channel.close()
        del self._workers[worker.index]
        return [job for job, _ in worker.jobs]

    # ---- the zygote

    def _launch(self) -> None:
        if not sys.executable:
            raise ConfigRefused(
                "needs a Python interpreter to start; sys.executable is empty", where="workers"
            )
        self._starts += 1
        self._is_ready = False
        self._channel, theirs = Channel.pair()
        command = [sys.executable, "-P", "-m", "galaxylearning.engines.zygote"]
        try:
            # A session of its own: Ctrl-C at the terminal is for the caller, who then closes the channel.
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                start_new_session=True,
            )
            self._selector.register(self._channel, selectors.EVENT_READ, None)
            self._runs = True
            self._introduce()
        except OSError as error:
            if not self._runs:
                self._channel.close()
            raise StorageError(f"could not be started: {error}", where="worker processes") from error
        finally:
            theirs.close()

    def _introduce(self) -> None:
        """Send the model. A zygote that is gone already is noticed when its answer is waited for."""
        graph, weights = self._documents
        documents = SharedMemory.create(len(graph) + len(weights))
        try:
            documents.write(graph, 0)
            documents.write(weights, len(graph))
            with suppress(Closed, TimeoutError):
                self._channel.send(self._setup, [documents.fd, self._arena.fd])
        finally:
            documents.close_descriptor()

    def _answer(self) -> Message:
        try:
            return self._channel.receive(timeout_s=self._stall_s)[0]
        except (Closed, TimeoutError):
            raise _ZygoteGone from None

    def _ask(self, message: Message, descriptors: list[int] | None = None) -> Message:
        try:
            self._channel.send(message, descriptors or [])
        except (Closed, TimeoutError):
            raise _ZygoteGone from None
        return self._answer()

    def _restart(self) -> None:
        """Start again, once in a round; what was in flight is done again."""
        jobs = [job for worker in self._workers.values() for job, _ in worker.jobs]
        self._end_all(0.0)
        self._waiting.extendleft(reversed(jobs))
        if self._starts >= MAX_STARTS:
            manner = _manner(self._process.returncode)
            self.close()
            raise StorageError(
                f"the process that starts workers {manner} twice; is there enough memory?",
                where="worker processes",
            )
        self._launch()

    def _end_all(self, grace_s: float) -> None:
        """End the zygote and every worker. On return none of them writes any more."""
        if not self._runs:
            return
        self._runs = False
        for worker in list(self._workers.values()):
            if not worker.channel.is_hung_up():
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            # A process closes its files after its memory is gone: after this, it writes no more.
            with suppress(Closed, TimeoutError):
                while True:
                    worker.channel.receive(timeout_s=_LOOK_S)
            self._dismiss(worker)
        self._selector.unregister(self._channel)
        self._channel.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(self._stall_s)


def _environment() -> dict[str, str]:
    """One thread for every library, and this package where the new interpreter finds it."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    home = str(Path(__file__).resolve().parents[2])
    if home in sysconfig.get_paths().values():
        return {**os.environ, **one}
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, **one, "PYTHONPATH": os.pathsep.join([home, *([known] if known else [])])}


def _manner(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
