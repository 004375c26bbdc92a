"""One single-thread worker process per core, for models whose steps fill a core, such as convolutions.

Each worker trains exactly as the reference engine does, so results are the same to the last bit, however many
workers there are and whichever of them die. The caller's process needs no tensor library.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from types import TracebackType

import numpy as np

from galaxylearning.engines.channel import Diverged, Done, Setup, pack_rng, raise_refusal
from galaxylearning.engines.cohort import Cohort, owner_rng
from galaxylearning.engines.cores import usable_cores
from galaxylearning.engines.crew import Crew, Job, Outcome
from galaxylearning.engines.engine import Trained, Training, require_state
from galaxylearning.engines.memory import MIB
from galaxylearning.engines.shared_memory import Array, Layout, RowShape, SharedMemory
from galaxylearning.engines.worker_memory import fitting_workers, shared_bytes, worker_bytes
from galaxylearning.errors import ConfigRefused, DataRefused, StorageError
from galaxylearning.graph.document import ModelGraph
from galaxylearning.learning.vectors import F32, I64, require_integer, require_number

MAX_WORKERS = 1024
MAX_CHUNK = 64
"""At most so many owners' results are given at a time; as many again are in the making meanwhile."""
_SLOT_SHARE = 4
"""A quarter of the budget, at most, is for results."""


class WorkerEngine:
    """Implements ``Engine`` with processes of its own; a context manager. One object serves one thread.

    ``weights`` is the initial state as canonical safetensors. ``workers``: None for as many as there are
    cores and the budget allows. ``budget_mib`` bounds what the engine adds to the caller's memory, all its
    processes together. A worker silent for ``stall_s`` seconds in one owner's training counts as dead; three
    dead workers over one owner make that owner a failure.

    Raises:
        ConfigRefused: a setting out of range, a budget that is too small (with the MiB needed), a graph with
            buffers that stay with the owner.
        DataRefused: rows that are not plain numbers.
        StorageError: the system gives no memory or no process.
    """

    name = "workers"

    def __init__(
        self,
        graph: ModelGraph,
        weights: bytes,
        cohort: Cohort,
        training: Training,
        *,
        workers: int | None = None,
        budget_mib: float = 1024,
        stall_s: float = 600.0,
    ) -> None:
        _check_graph(graph)
        require_number(stall_s, "stall_s", low=0, high=1e6, low_open=True)
        budget = int(require_number(budget_mib, "budget_mib", low=1, high=1 << 30) * MIB)
        if workers is not None:
            require_integer(workers, "workers", low=1, high=MAX_WORKERS)
        self._cohort, self._training = cohort, training
        most = min(usable_cores() if workers is None else workers, MAX_WORKERS, len(cohort))
        least = 1 if workers is None else most
        layout = _layout(graph, cohort, most, budget)
        self._layout = layout
        # Activations come on top when the graph has been metered; what is known now may be too much already.
        each = worker_bytes(layout, len(weights), 0, training.plan)
        fitting_workers(shared_bytes(layout, len(weights)), each, budget, least=least, most=most)
        try:
            arena = SharedMemory.create(layout.size)
        except OSError as error:
            raise StorageError(
                f"{layout.size} bytes are not to be had: {error}", where="shared memory"
            ) from error
        self._params, self._state = layout.params(arena), layout.state(arena)
        self._updates, self._states = layout.updates(arena), layout.states(arena)
        document = graph.to_bytes()
        setup = Setup(len(document), len(weights), layout, training.plan, least, budget)
        self._crew = Crew(setup, (document, weights), arena, partial(_copy_rows, cohort), stall_s=stall_s)
        self._close = weakref.finalize(self, self._crew.close)
        self._rounds = 0

    def ready(self) -> int:
        """Wait until the model is built in the workers' process; how many workers there may be.

        Raises:
            ConfigRefused: the budget is too small (with the MiB needed), or PyTorch is missing.
            GraphRefused: the graph or its weights are not acceptable.
            StorageError: the processes cannot be kept alive.
        """
        return self._crew.ready()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process numbers of everything the engine runs, for whoever measures it."""
        return self._crew.pids

    def train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        """See ``Engine.train``; the same bytes as the reference engine gives, in chunks of fixed size.

        Raises:
            ConfigRefused, GraphRefused, StorageError: as :meth:`ready`.
            DataRefused: the rows are not what the graph takes.
            ValueError: vectors of a wrong type or size, an owner that is not in the cohort or is named twice,
                a plan of too many steps.
        """
        require_state(params, buffers, parameters=self._layout.parameters, n_buffers=self._layout.buffers)
        self._cohort.require_owners(owners)
        if np.unique(owners).size != owners.size:
            raise ValueError("owners must name each data owner once")
        return self._train(params.copy(), buffers.copy(), owners.copy(), round_index)

    def _train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        self._crew.begin()
        self._rounds += 1
        this_round = self._rounds
        self._params[...], self._state[...] = params, buffers
        chunk = self._layout.slots // 2
        chunks = [owners[start : start + chunk] for start in range(0, owners.size, chunk)]
        outcomes: dict[int, Outcome] = {}
        for number, members in enumerate(chunks):
            if self._rounds != this_round:
                raise ValueError("another round has begun; this one's results are gone")
            # While the caller looks at half of the slots, the next chunk is in the making in the other half.
            ahead = (0, 1) if number == 0 else (number + 1,)
            for soon in ahead:
                if soon < len(chunks):
                    self._crew.submit(self._jobs(chunks[soon], soon % 2 * chunk, round_index))
            first = number % 2 * chunk
            slots = range(first, first + members.size)
            while any(slot not in outcomes for slot in slots):
                outcomes.update((job.slot, outcome) for job, outcome in self._crew.finished())
            yield self._gather(members, first, [outcomes.pop(slot) for slot in slots])

    def _jobs(self, members: I64, first: int, round_index: int) -> list[Job]:
        """A job for each owner, the longest first, so that none of them is left to run alone at the end."""
        cohort, counts = self._cohort, self._cohort.counts
        jobs = [
            Job(
                owner,
                first + i,
                int(counts[owner]),
                pack_rng(owner_rng(self._training.seed, round_index, cohort.identities[owner])),
            )
            for i, owner in enumerate(members.tolist())
        ]
        return sorted(jobs, key=lambda job: -job.rows)

    def _gather(self, members: I64, first: int, outcomes: list[Outcome]) -> Trained:
        count = members.size
        updates, states = self._updates[first : first + count], self._states[first : first + count]
        steps, losses = np.zeros(count, np.int64), np.full((count, 2), np.nan)
        failures: dict[int, str] = {}
        for i, outcome in enumerate(outcomes):
            if isinstance(outcome, Done):
                steps[i], losses[i] = outcome.steps, (outcome.first_loss, outcome.last_loss)
            elif isinstance(outcome, Diverged):
                updates[i], states[i] = 0.0, 0.0
                failures[int(members[i])] = outcome.text
            else:
                raise_refusal(outcome)
        return Trained(members, updates, states, steps, losses, failures)

    def close(self) -> None:
        """End all processes and let go of the memory; may be called twice."""
        self._close()

    def __enter__(self) -> WorkerEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_graph(graph: ModelGraph) -> None:
    for entry in graph.state:
        if entry.federate == "keep_local":
            raise ConfigRefused(
                f"buffer {entry.name} stays with its data owner, and workers keep nothing between owners; "
                "choose the reference engine",
                where="engine workers",
            )


def _layout(graph: ModelGraph, cohort: Cohort, workers: int, budget: int) -> Layout:
    parameters = sum(entry.elements for entry in graph.state if entry.trainable)
    buffers = sum(
        entry.elements
        for entry in graph.state
        if entry.kind == "buffer" and entry.federate in ("mean", "sum")
    )
    row_bytes = 4 * (parameters + buffers)
    chunk = min(MAX_CHUNK, len(cohort), budget // _SLOT_SHARE // (2 * max(1, row_bytes)))
    return Layout(parameters, buffers, 2 * max(1, chunk), workers, int(cohort.counts.max()), _row(cohort))


def _row(cohort: Cohort) -> RowShape:
    inputs, labels = cohort.pool.inputs, cohort.pool.labels
    for name, array in (("inputs", inputs), ("labels", labels)):
        if array.dtype.kind not in "biuf":
            raise DataRefused(f"must be numbers, not {array.dtype}", where=name)
    return RowShape(inputs.dtype.str, inputs.shape[1:], labels.dtype.str, labels.shape[1:])


def _copy_rows(cohort: Cohort, owner: int, inputs: Array, labels: Array) -> None:
    rows = cohort.index[cohort.offsets[owner] : cohort.offsets[owner + 1]]
    # The cohort has checked its index; in "raise" mode numpy would copy once more.
    np.take(cohort.pool.inputs, rows, axis=0, out=inputs, mode="clip")
    np.take(cohort.pool.labels, rows, axis=0, out=labels, mode="clip")
