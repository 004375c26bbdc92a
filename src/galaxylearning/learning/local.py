"""Local training at a data owner's: a gradient function in, an update out. Knows no model or framework."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.checkpoint import Checkpoint, Keeper, LocalState, Position
from galaxylearning.learning.plan import MAX_STEPS, LocalPlan
from galaxylearning.learning.vectors import F32, I64, require_integer, require_vector

MAX_ROWS = 1 << 40
_F32 = np.dtype(np.float32)
_NOTHING = np.empty(0, np.int64)


class GradientFunction(Protocol):
    """Mean loss over some rows, its gradient, and the federated buffers after the pass."""

    def __call__(
        self, params: F32, buffers: F32, rows: I64, rng: np.random.Generator, /
    ) -> tuple[float, F32, F32]:
        """Give ``(loss, gradient f32[P], buffers f32[B])`` for ``rows`` int64[b]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LocalResult:
    """What local training gave.

    ``update`` f32[P] is the trained minus the received parameters, ``buffers`` f32[B] the buffers
    themselves after training; the losses are those of the first and of the last batch, before their steps.
    """

    update: F32
    buffers: F32
    steps: int
    first_loss: float
    last_loss: float


def train_local(
    gradient: GradientFunction,
    params: F32,
    buffers: F32,
    n_rows: int,
    plan: LocalPlan,
    *,
    rng: np.random.Generator,
    checkpoint: Checkpoint | None = None,
    local: LocalState | None = None,
) -> LocalResult:
    """Train from ``params`` by ``plan`` on rows ``0..n_rows-1``; the inputs are left unchanged.

    At the end of a pass over the rows the position is saved in ``checkpoint`` where that is due, and a
    training that finds its own position there goes on from it to the same bytes. ``local`` is what
    ``gradient`` changes besides; it is saved and restored as well.

    With ``epochs`` every pass is a fresh permutation cut into ``ceil(n_rows / batch_size)`` batches whose
    sizes differ by at most one (so that no pass ends in a batch of one row). With ``steps`` every batch has
    ``min(batch_size, n_rows)`` rows of an endless run of permutations. Equal ``rng`` states give equal bytes.

    Raises:
        UpdateRefused: a loss, gradient, buffer or the result is not finite or has the wrong shape; the
            message names the step, counted from 1. Or the plan asks for more than ``MAX_STEPS`` steps.
        ValueError: ``n_rows`` is out of range.
    """
    start = require_vector(params, "params", np.float32)
    state = require_vector(buffers, "buffers", np.float32)
    require_integer(n_rows, "n_rows", low=1, high=MAX_ROWS, error=ValueError)
    if plan.epochs is not None and plan.epochs * _batches_per_epoch(n_rows, plan) > MAX_STEPS:
        raise UpdateRefused(f"must give at most {MAX_STEPS} steps over {n_rows} rows", where="epochs")
    apply = optimizer_step(plan, start.size)
    keeper = Keeper(checkpoint, plan, n_rows, start, state, rng, local)
    kept = keeper.resume(start, state, apply.memory)
    current, step, first_loss, last_loss = start.copy(), 0, math.nan, math.nan
    if kept is not None:
        current, state, step = kept.parameters, kept.buffers, kept.step
        first_loss, last_loss = kept.first_loss, kept.last_loss
        apply.remember(kept.memory)
    drawn = batches(n_rows, plan, rng, done=step, queue=None if kept is None else kept.queue)
    per_pass = _batches_per_epoch(n_rows, plan)
    # A diverging run is caught by the checks below, with the step's number: numpy need not warn as well.
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in drawn:
            step += 1
            last_loss, slope, state = _checked(
                gradient(current, state, rows, rng), step, start.size, state.size
            )
            if step == 1:
                first_loss = last_loss
            apply(current, pulled(slope, plan, current, start), step)
            if step % per_pass == 0 and keeper.is_due():
                queue = drawn.queue if isinstance(drawn, EndlessBatches) else _NOTHING
                keeper.save(Position(step, first_loss, last_loss, current, state, apply.memory, queue))
        update = current - start
    if not bool(np.isfinite(update).all()):
        raise UpdateRefused(f"the parameters are not finite after step {step}", where="update")
    return LocalResult(update, state.copy(), step, first_loss, last_loss)


def pulled(slope: F32, plan: LocalPlan, current: F32, start: F32) -> F32:
    """A gradient f32[P] with the plan's weight decay and its pull towards where the round began (FedProx)."""
    if plan.weight_decay:
        slope = slope + np.float32(plan.weight_decay) * current
    if plan.prox_mu:
        slope = slope + np.float32(plan.prox_mu) * (current - start)
    return slope


def _checked(answer: tuple[float, F32, F32], step: int, size: int, n_buffers: int) -> tuple[float, F32, F32]:
    loss, slope, state = answer
    if not math.isfinite(loss):
        raise UpdateRefused(f"must be finite, not {loss}", where=f"loss at step {step}")
    if not _is_plainly_fine(slope, size):
        slope = require_vector(slope, f"gradient at step {step}", np.float32, size=size)
    if not _is_plainly_fine(state, n_buffers):
        state = require_vector(state, f"buffers at step {step}", np.float32, size=n_buffers)
    return float(loss), slope, state


def _is_plainly_fine(vector: F32, size: int) -> bool:
    """Whether one glance is enough: a sum of squares is finite only where every element is. (It may overflow
    although all of them are: then they are looked at one by one.)
    """
    return (
        isinstance(vector, np.ndarray)
        and vector.dtype == _F32
        and vector.shape == (size,)
        and math.isfinite(np.dot(vector, vector))
    )


def _batches_per_epoch(n_rows: int, plan: LocalPlan) -> int:
    return -(-n_rows // plan.batch_size)


def batches(
    n_rows: int, plan: LocalPlan, rng: np.random.Generator, *, done: int = 0, queue: I64 | None = None
) -> Iterator[I64]:
    """Row numbers of every batch of a local training, int64[b] each; draws only permutations from ``rng``.

    The first ``done`` batches, which end a pass, are left out as if they had been drawn, and ``queue`` was
    left of them (see ``EndlessBatches``).
    """
    if plan.order == "stored":
        return _stored_batches(n_rows, plan, done)
    if plan.epochs is not None:
        return _epoch_batches(n_rows, plan, rng, done)
    return EndlessBatches(n_rows, plan, rng, done, _NOTHING if queue is None else queue)


def _epoch_batches(n_rows: int, plan: LocalPlan, rng: np.random.Generator, done: int) -> Iterator[I64]:
    pieces = _batches_per_epoch(n_rows, plan)
    for _ in range(done // pieces, plan.epochs or 0):
        yield from np.array_split(_permutation(n_rows, rng), pieces)


def _stored_batches(n_rows: int, plan: LocalPlan, done: int) -> Iterator[I64]:
    per_pass = [
        np.arange(start, min(start + plan.batch_size, n_rows), dtype=np.int64)
        for start in range(0, n_rows, plan.batch_size)
    ]
    steps = plan.steps if plan.epochs is None else plan.epochs * len(per_pass)
    for step in range(done, steps or 0):
        yield per_pass[step % len(per_pass)]


class EndlessBatches:
    """Batches of an endless run of permutations; ``queue`` int64[k] is what is drawn and not used yet."""

    def __init__(self, n_rows: int, plan: LocalPlan, rng: np.random.Generator, done: int, queue: I64) -> None:
        self.queue = queue
        self._n_rows, self._rng = n_rows, rng
        self._size = min(plan.batch_size, n_rows)
        self._left = (plan.steps or 0) - done

    def __iter__(self) -> EndlessBatches:
        return self

    def __next__(self) -> I64:
        if self._left <= 0:
            raise StopIteration
        self._left -= 1
        while self.queue.size < self._size:
            self.queue = np.concatenate([self.queue, _permutation(self._n_rows, self._rng)])
        found, self.queue = self.queue[: self._size], self.queue[self._size :]
        return found


def _permutation(n_rows: int, rng: np.random.Generator) -> I64:
    return rng.permutation(n_rows).astype(np.int64, copy=False)


class Optimizer(Protocol):
    """``optimizer(parameters f32[size], gradient f32[size], step)`` makes one step, in place.

    Steps are counted from 1; ``memory`` is what it remembers between them, f32[size] each.
    """

    memory: tuple[F32, ...]

    def __call__(self, current: F32, slope: F32, step: int, /) -> None: ...

    def remember(self, memory: Sequence[F32]) -> None:
        """Take up what an optimiser of the same plan remembered."""
        ...


def optimizer_step(plan: LocalPlan, size: int) -> Optimizer:
    """The plan's optimiser for ``size`` parameters."""
    return _Adam(plan, size) if plan.optimizer == "adam" else _Sgd(plan, size)


class _Remembering:
    memory: tuple[F32, ...]

    def remember(self, memory: Sequence[F32]) -> None:
        for mine, other in zip(self.memory, memory, strict=True):
            mine[:] = other


class _Sgd(_Remembering):
    """``v = momentum * v + g; w -= learning_rate * v`` (as PyTorch: no dampening)."""

    def __init__(self, plan: LocalPlan, size: int) -> None:
        self.memory = (np.zeros(size, np.float32),) if plan.momentum else ()
        self._scaled = np.empty(size, np.float32)
        self._rate, self._momentum = np.float32(plan.learning_rate), np.float32(plan.momentum)

    def __call__(self, current: F32, slope: F32, _step: int, /) -> None:
        for velocity in self.memory:
            np.multiply(velocity, self._momentum, out=velocity)
            slope = np.add(velocity, slope, out=velocity)
        np.multiply(slope, self._rate, out=self._scaled)
        np.subtract(current, self._scaled, out=current)


class _Adam(_Remembering):
    """Adam with bias correction. Source: Kingma & Ba 2014 (arXiv 1412.6980), algorithm 1."""

    def __init__(self, plan: LocalPlan, size: int) -> None:
        self.memory = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._plan = plan

    def __call__(self, current: F32, slope: F32, step: int, /) -> None:
        plan, (first, second) = self._plan, self.memory
        beta1, beta2, one = np.float32(plan.beta1), np.float32(plan.beta2), np.float32(1)
        np.add(first * beta1, (one - beta1) * slope, out=first)
        np.add(second * beta2, (one - beta2) * (slope * slope), out=second)
        rate = np.float32(plan.learning_rate / (1.0 - plan.beta1**step))
        root = np.sqrt(second / np.float32(1.0 - plan.beta2**step))
        current -= rate * first / (root + np.float32(plan.epsilon))
