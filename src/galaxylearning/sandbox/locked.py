"""Training in a locked worker: a process of its own for each training, without network, files or keys.

The node passes bytes and reads back integers of exactly the expected number; it never looks into a stranger's
graph. What locks the worker is in ``locks``, what it does in ``work``.

A worker keeps nothing. What a training is to find again in the next one goes through the node: the buffers
that stay with their data owner, of a length that is known before (``Request.local_bytes``), and how far a
long training is (``Status.KEPT``), of a bounded length, which the node stores unread and gives to the next
worker for this training and to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import ConfigRefused, UpdateRefused, WorkerRefused
from galaxylearning.learning.checkpoint import Checkpoint
from galaxylearning.messages.terms import Terms, encode_terms
from galaxylearning.ports import Checkpoints, GraphFacts
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.updates import check_trained, training_name
from galaxylearning.sandbox.caps import MEASURING_S, Caps
from galaxylearning.sandbox.facts import FACTS_BYTES, facts_from_bytes
from galaxylearning.sandbox.frames import Ready, Request, Work, shape_of
from galaxylearning.sandbox.host import SERVER, Allowed, WorkerHost, find_bubblewrap
from galaxylearning.sandbox.local_buffers import LocalBuffers
from galaxylearning.sandbox.locks import STOPS, Locks
from galaxylearning.units import Address, Digest

KEEP_EVERY_S: Final = 10.0
KEPT_ROOM_BYTES: Final = 1 << 16
_VECTORS: Final = 3
"""Parameters, and what an optimiser remembers of each: two numbers at most."""
KEPT_GRAPHS: Final = 64
_Key = tuple[Digest, int]
_V = TypeVar("_V")
_K = TypeVar("_K")


class LockedTrainer:
    """Implements ``ports.Trainer``; one update at a time. An asynchronous context manager.

    ``caps`` is asked for at every training, so that a changed policy takes effect at once. ``program`` and
    ``bubblewrap`` as in ``WorkerHost``. The process that forks workers is started with the first use, and
    again when it is gone.
    """

    def __init__(
        self,
        caps: Callable[[], Caps],
        *,
        program: Sequence[str] = SERVER,
        bubblewrap: str | None = None,
        checkpoints: Checkpoints | None = None,
        keep_every_s: float = KEEP_EVERY_S,
    ) -> None:
        self._caps, self._checkpoints, self._keep_every_s = caps, checkpoints, keep_every_s
        self._start = partial(WorkerHost, program, bubblewrap=bubblewrap or find_bubblewrap())
        self._host: WorkerHost | None = None
        self._one_at_a_time = anyio.Lock()
        self._facts: dict[_Key, GraphFacts] = {}
        self._local = LocalBuffers(checkpoints)

    async def __aenter__(self) -> LockedTrainer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process number of what forks the workers, for whoever measures it; None before the first use."""
        return None if self._host is None else self._host.pid

    def close(self) -> None:
        """End all processes; a training that is under way fails."""
        host, self._host = self._host, None
        if host is not None:
            host.close()

    async def ready(self) -> Ready:
        """Start what is needed and say how it is locked.

        Raises:
            ConfigRefused: it cannot be started, or the policy requires a lock that this machine lacks.
        """
        async with self._one_at_a_time:
            return (await self._started(self._caps())).ready

    async def measure(self, graph: bytes, *, batch_size: int) -> GraphFacts:
        """See ``ports.Trainer.measure``.

        Raises:
            ConfigRefused: as ``ready``.
        """
        key = blake3_digest(graph), batch_size
        if key not in self._facts:
            caps = self._caps()
            work = Work(Request("measure", len(graph), batch_size), graph)
            allowed = Allowed(min(caps.training_s, MEASURING_S), caps.memory_bytes, FACTS_BYTES)
            facts = facts_from_bytes(await self._run(work, allowed, caps))
            if facts is None:
                raise WorkerRefused("sent numbers below zero", where="worker")
            _keep(self._facts, key, facts, KEPT_GRAPHS)
        return self._facts[key]

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """See ``ports.Trainer.train``.

        Raises:
            ConfigRefused: as ``ready``.
        """
        facts, caps = await self.measure(graph, batch_size=terms.plan.batch_size), self._caps()
        parameters, buffers = facts.cost.parameters, facts.buffers
        update_bytes = 4 * (parameters + buffers)
        answer_bytes = update_bytes + facts.local_bytes
        if answer_bytes > caps.output_bytes:
            raise WorkerRefused(
                f"hit the cap maximum_output_bytes: the update has {answer_bytes:,} bytes, "
                f"{caps.output_bytes:,} allowed",
                where="worker",
                cap="maximum_output_bytes",
            )
        local, encoded = b"", encode_terms(terms)
        if facts.local_bytes:
            local = self._local.before(terms, round_index, data_owner, size=facts.local_bytes) or b""
        kept, checkpoint, kept_bytes = None, b"", 0
        if self._checkpoints is not None:
            kept = self._checkpoints.of(training_name(terms, round_index, data_owner))
            kept_bytes = _VECTORS * 4 * parameters + 4 * buffers + 8 * 2 * len(rows) + KEPT_ROOM_BYTES
            kept_bytes += facts.local_bytes
            checkpoint = kept.load() or b""
            checkpoint = checkpoint if len(checkpoint) <= kept_bytes else b""
        request = Request(
            "train",
            len(graph),
            state_bytes=len(state),
            terms_bytes=len(encoded),
            local_bytes=len(local),
            checkpoint_bytes=len(checkpoint),
            keep_every_s=self._keep_every_s if kept is not None else 0.0,
            inputs=shape_of(rows.inputs),
            labels=shape_of(rows.labels),
            round_index=round_index,
            data_owner=data_owner,
        )
        work = Work(request, graph, state, encoded, local, rows, checkpoint)
        allowed = Allowed(caps.training_s, caps.memory_bytes, answer_bytes, kept_bytes)
        answer = await self._run(work, allowed, caps, None if kept is None else partial(_save, kept))
        integers = np.frombuffer(answer, "<i4", parameters + buffers).astype(np.int32)
        try:
            check_trained(terms, integers[:parameters], integers[parameters:])
        except UpdateRefused as error:
            raise WorkerRefused(f"sent what training cannot give: {error}", where="worker") from None
        if facts.local_bytes:
            self._local.keep(terms, round_index, data_owner, answer[update_bytes:])
        return integers[:parameters], integers[parameters:]

    async def _run(
        self, work: Work, allowed: Allowed, caps: Caps, keep: Callable[[bytes], None] | None = None
    ) -> bytes:
        async with self._one_at_a_time:
            host = await self._started(caps)
            return await _in_thread(partial(host.run, work, allowed, keep), host)

    async def _started(self, caps: Caps) -> WorkerHost:
        if self._host is None or self._host.is_dead:
            self._host = await anyio.to_thread.run_sync(self._start)
        require_locks(self._host.ready.locks, caps)
        return self._host


def _save(kept: Checkpoint, state: bytes) -> None:
    """Store what a worker says, no more often than is due, however often it says something."""
    if kept.is_due():
        kept.save(state)


def require_locks(locks: Locks, caps: Caps) -> None:
    """Refuse to go on where the policy requires a locked worker and this machine cannot lock it.

    Raises:
        ConfigRefused: naming what a worker could do, and what the machine lacks.
    """
    if caps.sandbox == "required" and locks.open:
        could = "; ".join(f"{name} (locked, a worker {STOPS[name]})" for name in locks.open)
        lacks = "; ".join(f"{name}: {why}" for name, why in locks.missing.items() if name != "bubblewrap")
        raise ConfigRefused(
            f"'required', but nothing here keeps a worker from {could}. Missing: {lacks}. Allowed: a machine "
            "that has it, or 'best-effort'",
            where="policy.sandbox",
        )


async def _in_thread(work: Callable[[], _V], host: WorkerHost) -> _V:
    """Wait for blocking work; where nobody waits any more, end it."""
    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        host.close()
        raise


def _keep(kept: dict[_K, _V], key: _K, value: _V, most: int) -> None:
    """Remember the latest of ``most`` things."""
    kept.pop(key, None)
    while len(kept) >= most:
        kept.pop(next(iter(kept)))
    kept[key] = value
