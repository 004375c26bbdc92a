"""Data owners stacked: those of a chunk share products, in numpy alone. For dense models.

All owners of a round start from the same parameters, so the first step's values are plain products over all
rows together, and only the derivatives by parameters are each owner's own. Later steps multiply stacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as waited
from dataclasses import dataclass

import numpy as np

from galaxylearning.engines.cohort import Array, Cohort
from galaxylearning.engines.engine import Trained, Training, require_state
from galaxylearning.engines.memory import MIB
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.stacked_chunk import (
    Found,
    Passes,
    Pool,
    Workspace,
    column_bytes,
    model_bytes,
    train_chunk,
)
from galaxylearning.engines.stacked_layout import PADDING, Schedule
from galaxylearning.errors import ConfigRefused, DataRefused, UpdateRefused
from galaxylearning.graph.dense_model import DenseModel
from galaxylearning.graph.dense_ops import Product
from galaxylearning.graph.dense_program import DenseProgram
from galaxylearning.graph.dense_weights import check_arrays
from galaxylearning.graph.labels import LABEL_DTYPE, prepare_labels
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.vectors import F32, I64, require_integer, require_number

_CHUNK_BYTES = 8 * MIB
"""About what stays near the processor: larger chunks wait for memory, smaller ones for calls."""

_CHUNK_OWNERS = 4
"""Fewer data owners than this share too little, however large the model."""

_KEPT_STEPS = 64
"""Rows of more steps than this are not kept between rounds."""

_MERGE_PARAMETERS = 10_000
"""A product of its own for a group costs about what so many parameters cost for one row more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Some of the data owners asked for: ``owners`` as they came, ``order`` sorts them by their rows, and
    ``places`` is the way back, or None where they came sorted. ``slot`` says which workspace they are
    trained in.
    """

    owners: I64
    order: I64
    places: I64 | None
    slot: int


@dataclass(frozen=True, slots=True)
class _Limits:
    """What fits a chunk: data owners, and rows a step with padding. ``bytes`` is what a workspace takes."""

    models: int
    columns: int
    bytes: float


class StackedEngine:
    """Implements ``Engine`` for dense graphs.

    ``weights`` are the job's initial ones, by name; what is frozen is read from them. ``budget_mib`` bounds
    all that the engine allocates; rows that are the same every round are kept between rounds in what
    workspaces leave of it. Outcomes do not depend on ``threads``: what is computed together does not.

    Raises:
        ConfigRefused: not even one data owner fits the budget; the message names the MiB needed.
        DataRefused: rows or labels are not what the graph takes; names the data owner.
        GraphRefused: the weights do not match the graph.
    """

    name = "stacked"

    def __init__(
        self,
        program: DenseProgram,
        weights: Mapping[str, Array],
        cohort: Cohort,
        training: Training,
        *,
        budget_mib: float = 256,
        threads: int = 1,
    ) -> None:
        require_number(budget_mib, "budget_mib", low=0, high=1 << 30, low_open=True)
        self._threads = require_integer(threads, "threads", low=1, high=1024)
        needed = needed_mib(program, cohort, training.plan)
        if needed > budget_mib:
            raise ConfigRefused(
                f"one data owner's training takes {needed:.2f} MiB, the budget is {budget_mib:g} MiB",
                where="budget_mib",
            )
        check_arrays(program.graph, weights)
        self._program, self._weights = program, weights
        self._cohort, self._training = cohort, training
        self._counts = cohort.counts
        self._pool = _pool(program, cohort)
        products = sum(isinstance(operation, Product) for operation in program.operations)
        self._merge = _MERGE_PARAMETERS * products // max(1, program.parameter_count)
        budget = budget_mib * MIB - _copied_bytes(program, cohort)
        self._limits = _limits(program, self._counts, training.plan, budget)
        fits = int(max(budget / 2, self._limits.bytes) // self._limits.bytes)
        self._slots = 1 if self._threads == 1 else min(self._threads + 1, fits)
        self._spare = budget - self._slots * self._limits.bytes
        self._workspaces: dict[int, Workspace] = {}
        self._kept: dict[bytes, _Kept] = {}
        self._seen: set[bytes] = set()
        self._is_swept = False
        self._cut: tuple[bytes, list[_Chunk]] | None = None
        self._alone: ReferenceEngine | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._under_way: set[Future[Found]] = set()

    # ---- the engine's interface

    def train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        """See ``Engine.train``; a chunk of data owners at a time."""
        require_state(
            params, buffers, parameters=self._program.parameter_count, n_buffers=self._program.buffer_count
        )
        self._cohort.require_owners(owners)
        return self._round(np.ascontiguousarray(params), np.array(buffers), owners, round_index)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._settle()
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
        self._workspaces.clear()
        for key in list(self._kept):
            self._drop(key)
        self._seen.clear()

    # ---- a round

    def _round(self, start: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        self._settle()
        frozen = self._program.frozen(self._weights, buffers)
        seen: set[bytes] = set()
        self._is_swept = False
        waiting: deque[tuple[_Chunk, Callable[[], Found]]] = deque()
        try:
            chunks = self._chunks(owners)
            # What there is one of needs no second thread.
            is_alone = self._slots == 1 or len(chunks) == 1
            for chunk in chunks:
                passes = self._passes(chunk, round_index, seen)
                waiting.append((chunk, self._begin(chunk, passes, start, frozen, is_alone)))
                if len(waiting) == self._slots:
                    yield self._finish(*waiting.popleft(), start, buffers, round_index)
            while waiting:
                yield self._finish(*waiting.popleft(), start, buffers, round_index)
            self._seen = seen
        finally:
            self._settle()

    def _chunks(self, owners: I64) -> list[_Chunk]:
        """Cut by memory alone: neither the number of threads nor what was kept changes what is together."""
        key = owners.tobytes()
        if self._cut is not None and self._cut[0] == key:
            return self._cut[1]
        owners, counts = owners.copy(), self._counts[owners]
        ends = np.cumsum(_padded(np.minimum(counts, self._training.plan.batch_size)))
        chunks: list[_Chunk] = []
        first = 0
        while first < len(owners):
            before = int(ends[first - 1]) if first else 0
            last = int(np.searchsorted(ends, before + self._limits.columns, side="right"))
            last = min(max(last, first + 1), first + self._limits.models)
            order, along = np.argsort(counts[first:last], kind="stable"), np.arange(last - first)
            places = None
            if not np.array_equal(order, along):
                places = np.empty_like(order)
                places[order] = along
            chunks.append(_Chunk(owners[first:last], order, places, len(chunks) % self._slots))
            first = last
        self._cut = key, chunks
        return chunks

    def _passes(self, chunk: _Chunk, round_index: int, seen: set[bytes]) -> Passes:
        key = chunk.owners.tobytes()
        seen.add(key)
        kept = self._kept.get(key)
        if kept is not None and kept.slot == chunk.slot:
            return kept.passes
        ordered = chunk.owners[chunk.order]
        training = self._training
        schedule = Schedule(
            self._cohort,
            training.plan,
            training.seed,
            round_index,
            ordered,
            self._counts[ordered],
            self._merge,
        )
        if not schedule.is_fixed or key not in self._seen:
            return Passes(schedule, self._pool, keep=False)
        # Asked for twice in a row: expect it again.
        if kept is not None:
            self._drop(key)
        size = self._kept_bytes(schedule, ordered)
        if size > self._spare and not self._is_swept:
            self._is_swept = True
            for stale in [other for other in self._kept if other not in seen and other not in self._seen]:
                self._drop(stale)
        if size > self._spare:
            return Passes(schedule, self._pool, keep=False)
        passes = Passes(schedule, self._pool, keep=True)
        self._kept[key] = _Kept(passes, chunk.slot, size)
        self._spare -= size
        return passes

    def _drop(self, key: bytes) -> None:
        self._spare += self._kept.pop(key).bytes

    def _kept_bytes(self, schedule: Schedule, owners: I64) -> float:
        """What keeping a chunk's gathered rows would take; infinite for too many steps."""
        steps = 1 if schedule.is_single else int(schedule.steps[-1])
        if steps > _KEPT_STEPS:
            return np.inf
        rows = np.minimum(self._counts[owners], self._training.plan.batch_size)
        columns = int((_padded(rows) * (1 if schedule.is_single else schedule.steps)).sum())
        label = self._pool.labels.itemsize * (self._pool.labels.size // len(self._pool.labels))
        return columns * (4 * self._program.features + 2 * label + 24) + 2 * steps * _frame_bytes(
            self._program, len(owners)
        )

    def _begin(
        self, chunk: _Chunk, passes: Passes, start: F32, frozen: Mapping[str, F32], is_alone: bool
    ) -> Callable[[], Found]:
        """Have a chunk trained; what comes back waits for it."""
        workspace = self._workspaces.get(chunk.slot)
        if workspace is None:
            workspace = Workspace(
                self._program, self._training.plan, self._limits.models, self._limits.columns
            )
            self._workspaces[chunk.slot] = workspace
        if is_alone:
            found = train_chunk(passes, workspace, start, frozen)
            return lambda: found
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, "stacked")
        future = self._executor.submit(train_chunk, passes, workspace, start, frozen)
        self._under_way.add(future)
        return future.result

    def _finish(
        self, chunk: _Chunk, wait: Callable[[], Found], start: F32, buffers: F32, round_index: int
    ) -> Trained:
        """A chunk's results in the order its data owners came in."""
        found, count = wait(), len(chunk.owners)
        self._under_way = {future for future in self._under_way if not future.done()}
        updates, losses, steps, is_finite = found.updates, found.losses, found.steps.copy(), found.is_finite
        if chunk.places is not None:
            spare = self._workspaces[chunk.slot].gradients[:count]
            updates = np.take(updates, chunk.places, axis=0, out=spare, mode="clip")
            losses, steps = losses[chunk.places], steps[chunk.places]
            is_finite = is_finite[chunk.places]
        state = np.tile(buffers, (count, 1))
        failures: dict[int, str] = {}
        for i in np.flatnonzero(~is_finite).tolist():
            owner = int(chunk.owners[i])
            try:
                alone = self._reference().train_one(start, buffers, owner, round_index)
            except UpdateRefused as refused:
                failures[owner] = str(refused)
                updates[i], losses[i], steps[i], state[i] = 0, np.nan, 0, 0
            else:
                updates[i], losses[i] = alone.update, (alone.first_loss, alone.last_loss)
        return Trained(chunk.owners.copy(), updates, state, steps, losses, failures)

    def _reference(self) -> ReferenceEngine:
        """Who says, of a data owner whose training diverged, at which step and how."""
        if self._alone is None:
            model = DenseModel(self._program.graph, self._weights)
            self._alone = ReferenceEngine(model, self._cohort, self._training)
        return self._alone

    def _settle(self) -> None:
        """Wait for what is under way: an abandoned round must not write where the next one does."""
        for future in self._under_way:
            future.cancel()
        if self._under_way:
            waited(self._under_way)
        self._under_way.clear()


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Passes that are the same every round, for the workspace they were made for, and what they take."""

    passes: Passes
    slot: int
    bytes: float


def needed_mib(program: DenseProgram, cohort: Cohort, plan: LocalPlan) -> float:
    """The least budget in MiB: what training the data owner with the largest batches takes."""
    return (_largest_bytes(program, cohort.counts, plan) + _copied_bytes(program, cohort)) / MIB


def _frame_bytes(program: DenseProgram, models: int) -> int:
    """About what the views of one step take: some for each operation and group."""
    return 4096 + 400 * len(program.operations) * min(models, 16)


def _padded(rows: I64) -> I64:
    wider: I64 = np.ceil(rows * (1 + PADDING)).astype(np.int64)
    return wider


def _largest_bytes(program: DenseProgram, counts: I64, plan: LocalPlan) -> float:
    columns = _padded(np.minimum(counts, plan.batch_size)).max()
    return model_bytes(program, plan) + int(columns) * column_bytes(program)


def _limits(program: DenseProgram, counts: I64, plan: LocalPlan, budget: float) -> _Limits:
    """What a chunk may hold: any one data owner, and as many average ones as the rest has room for."""
    per_model, per_column = model_bytes(program, plan), column_bytes(program)
    rows = _padded(np.minimum(counts, plan.batch_size))
    most, average = int(rows.max()), float(rows.mean())
    largest = per_model + most * per_column
    wanted = max(_CHUNK_BYTES, largest + (_CHUNK_OWNERS - 1) * (per_model + average * per_column))
    room = max(largest, min(wanted, budget / 2))
    extra = int((room - largest) / (per_model + average * per_column))
    models, columns = 1 + extra, most + int(extra * average)
    return _Limits(models, columns, models * per_model + columns * per_column)


# ---- the cohort's rows


def _copied_bytes(program: DenseProgram, cohort: Cohort) -> int:
    """What the engine's own copies of the pool take: arrays of another type or order are copied."""
    inputs, labels = cohort.pool.inputs, cohort.pool.labels
    taken = 0 if inputs.flags.c_contiguous else inputs.nbytes
    wanted = LABEL_DTYPE[program.loss]
    if labels.dtype != wanted or not labels.flags.c_contiguous:
        taken += labels.size * wanted.itemsize
    return taken


def _pool(program: DenseProgram, cohort: Cohort) -> Pool:
    """The pool as the engine reads it.

    Raises:
        DataRefused: rows are not the graph's input, or labels not what its loss takes.
    """
    inputs, labels = cohort.pool.inputs, cohort.pool.labels
    if inputs.dtype != np.float32 or inputs.shape[1:] != program.input_shape:
        wanted = ", ".join(["n", *map(str, program.input_shape)])
        raise DataRefused(
            f"rows must be float32 [{wanted}], not {inputs.dtype} {list(inputs.shape)}", where="owner 0"
        )
    rows = np.ascontiguousarray(inputs).reshape(len(inputs), program.features)
    shape = (len(labels), program.outputs_count)
    try:
        return Pool(rows, prepare_labels(program.loss, labels, shape))
    except DataRefused:
        used = np.unique(cohort.index)
    # Rows that nobody has may hold anything; of the others, say whose they are.
    for owner in range(len(cohort)):
        own = cohort.rows(owner).labels
        try:
            prepare_labels(program.loss, own, (len(own), program.outputs_count))
        except DataRefused as refused:
            raise DataRefused(str(refused), where=f"owner {owner}") from None
    prepared = prepare_labels(program.loss, labels[used], (len(used), program.outputs_count))
    spread = np.zeros((len(labels), *prepared.shape[1:]), prepared.dtype)
    spread[used] = prepared
    return Pool(rows, spread)
