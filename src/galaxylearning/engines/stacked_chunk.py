"""One chunk of data owners trained together: memory for it, and the steps themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from galaxylearning.engines.cohort import Array
from galaxylearning.engines.stacked_layout import Layout, Schedule
from galaxylearning.engines.stacked_steps import is_plain, memories, take_step
from galaxylearning.graph.dense_frames import FlatFrame
from galaxylearning.graph.dense_losses import Targets, losses_and_slope
from galaxylearning.graph.dense_ops import Apply, Operation
from galaxylearning.graph.dense_program import DenseProgram
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.vectors import F32, F64, I64

_PROBE = np.float32(2.0**-60)
"""Rows are summed times this to find what is not finite: no finite numbers add up to infinity."""


_OPERATION_SPARE = 2
_LOSS_SPARE = 6
"""Float32 for each element that operations, and a loss for each output, take in passing."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The cohort's rows as the engine reads them: ``inputs`` f32[n, features], labels as the loss takes
    them.
    """

    inputs: F32
    labels: Array


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The rows of one step of a chunk, gathered."""

    layout: Layout
    rows: F32
    targets: Targets


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What training a chunk gave, in the chunk's order; ``updates`` lie in the workspace."""

    updates: F32
    losses: F64
    steps: I64
    is_finite: Array


class Workspace:
    """Memory for one chunk at a time: up to ``models`` data owners with ``columns`` rows a step together."""

    def __init__(self, program: DenseProgram, plan: LocalPlan, models: int, columns: int) -> None:
        self.program, self.plan = program, plan
        size = program.parameter_count
        self.updates = np.empty((models, size), np.float32)
        self.gradients = np.empty((models, size), np.float32)
        self.params = np.empty((models, size), np.float32)
        self.kept = [np.empty((models, size), np.float32) for _ in range(memories(plan))]
        self.probe = np.full(size, _PROBE)
        self._rows = np.empty(columns * program.features, np.float32)
        self._values = self._arenas(set(program.value_places) - {0}, columns)
        self._slopes = self._arenas({p for p in program.slope_places if self._slopes_at(p)}, columns)

    def _arenas(self, places: set[int], columns: int) -> dict[int, F32]:
        return {p: np.empty(self.program.widths[p] * columns, np.float32) for p in places}

    def _slopes_at(self, value: int) -> bool:
        return self.program.live[value] or value == self.program.output

    def batch(self, layout: Layout, pool: Pool, *, keep: bool) -> Batch:
        """Gather a step's rows: into memory of their own if they are to be kept, else into the workspace."""
        shape = (layout.columns, self.program.features)
        rows = np.empty(shape, np.float32) if keep else self._rows[: shape[0] * shape[1]].reshape(shape)
        np.take(pool.inputs, layout.index, axis=0, out=rows, mode="clip")
        return Batch(layout, rows, Targets.of(self.program.loss, pool.labels[layout.index]))

    def frame(self, batch: Batch, frozen: Mapping[str, F32], *, is_start: bool) -> FlatFrame:
        """A frame for a batch: all data owners still at the start, or each at its own parameters."""
        program, layout, columns = self.program, batch.layout, batch.layout.columns
        last = layout.first + len(layout.sizes)

        def value(place: int) -> F32:
            if place == 0:
                return batch.rows.T
            return self._values[place][: program.widths[place] * columns].reshape(-1, columns)

        def slope(place: int) -> F32:
            if place not in self._slopes:
                return np.empty((0, columns), np.float32)
            return self._slopes[place][: program.widths[place] * columns].reshape(-1, columns)

        target = self.updates if is_start and is_plain(self.plan) else self.gradients
        return FlatFrame(
            program.laid_out(program.value_places, value),
            program.laid_out(program.slope_places, slope),
            layout.groups,
            layout.starts,
            frozen,
            self.params[layout.first : last],
            target[layout.first : last],
        )


class Passes:
    """The steps of a chunk; kept between rounds where they are the same every round."""

    def __init__(self, schedule: Schedule, pool: Pool, *, keep: bool) -> None:
        self.schedule = schedule
        self._pool, self._keep = pool, keep
        self._batches: dict[int, Batch] = {}
        self._frames: dict[int, FlatFrame] = {}

    def at(self, step: int, workspace: Workspace, frozen: Mapping[str, F32]) -> tuple[Batch, FlatFrame]:
        """The rows of step ``step`` and a frame around them."""
        # With one batch a pass, all steps have the same rows; frames differ only between first and later.
        rows_of, frame_of = (0, min(step, 1)) if self.schedule.is_single else (step, step)
        batch = self._batches.get(rows_of)
        if batch is None:
            batch = workspace.batch(self.schedule.layout(step), self._pool, keep=self._keep)
            if not self._keep:
                self._batches.clear()
                self._frames.clear()
            self._batches[rows_of] = batch
        frame = self._frames.get(frame_of)
        if frame is None:
            frame = self._frames[frame_of] = workspace.frame(batch, frozen, is_start=step == 0)
        frame.frozen = frozen
        return batch, frame


def train_chunk(passes: Passes, workspace: Workspace, start: F32, frozen: Mapping[str, F32]) -> Found:
    """Train a chunk's data owners from ``start`` f32[P]."""
    program, plan, steps = workspace.program, workspace.plan, passes.schedule.steps
    count, plain = len(steps), is_plain(plan)
    updates, gradients = workspace.updates[:count], workspace.gradients[:count]
    losses = np.empty((count, 2))
    sound = np.ones(count, np.bool_)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for step in range(int(steps[-1])):
            batch, frame = passes.at(step, workspace, frozen)
            first = batch.layout.first
            if step:
                np.add(start, updates[first:], out=workspace.params[first:count])
            else:
                frame.params = start
            each = _backpropagate(program, frame, batch, -plan.learning_rate if plain else 1.0)
            losses[first:, 1] = each
            if step == 0:
                losses[:, 0] = each
            np.logical_and(sound[first:], np.isfinite(each), out=sound[first:])
            if not plain:
                kept = [memory[first:count] for memory in workspace.kept]
                spare = workspace.params[first:count]
                take_step(plan, step, start, updates[first:], gradients[first:], spare, kept)
            elif step:
                updates[first:] += gradients[first:]
        sound &= np.isfinite(updates @ workspace.probe)
    return Found(updates, losses, steps, sound)


def _backpropagate(program: DenseProgram, frame: FlatFrame, batch: Batch, factor: float) -> F32:
    """Leave ``factor`` times the gradients in the frame; gives each data owner's mean loss."""
    weights = batch.layout.weights
    outputs = program.forward(frame)
    scaled = weights if factor == 1.0 else weights * np.float32(factor)
    each = losses_and_slope(program.loss, outputs, batch.targets, scaled, frame.slopes[program.output])
    if program.live[program.output]:
        program.backward(frame)
    for untouched in program.untouched:
        frame.gradients[:, untouched] = 0
    each *= weights
    found: F32 = np.add.reduceat(each, frame.starts)
    return found


def model_bytes(program: DenseProgram, plan: LocalPlan) -> int:
    """Bytes for each data owner: update, gradient, parameters, what the optimiser keeps, and small ones."""
    return 4 * program.parameter_count * (3 + memories(plan)) + 4 * program.buffer_count + 128


def column_bytes(program: DenseProgram) -> int:
    """Bytes for each row of a step: its input, values, derivatives, and what operations need in passing."""
    widths = program.widths
    values = sum(widths[p] for p in set(program.value_places))
    slopes = sum(widths[p] for p in set(program.slope_places) if program.live[p])
    passing = max(
        (_spare(operation) * widths[operation.gives] for operation in program.operations), default=0
    )
    return 4 * (values + slopes + max(passing, _LOSS_SPARE * program.outputs_count) + 16)


def _spare(operation: Operation) -> int:
    """Float32 that an operation takes in passing for each element of its result."""
    return operation.curve.spare if isinstance(operation, Apply) else _OPERATION_SPARE
