"""Local training at a data owner's: a gradient function in, an update out. Knows no model or framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.plan import MAX_STEPS, LocalPlan
from galaxylearning.learning.vectors import F32, I64, require_integer, require_vector

MAX_ROWS = 1 << 40
_F32 = np.dtype(np.float32)


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
) -> LocalResult:
    """Train from ``params`` by ``plan`` on rows ``0..n_rows-1``; the inputs are left unchanged.

    With ``epochs`` every pass is a fresh permutation cut into ``ceil(n_rows / batch_size)`` batches whose
    sizes differ by at most one (so that no pass ends in a batch of one row). With ``steps`` every batch has
    ``min(batch_size, n_rows)`` rows of an endless run of permutations. Equal ``rng`` states give equal bytes.

    Raises:
        UpdateRefused: a loss, gradient, buffer or the result is not finite or has the wrong shape; the
            message names the step, counted from 1.
        ValueError: ``n_rows`` is out of range, or the plan asks for more than ``MAX_STEPS`` steps.
    """
    start = require_vector(params, "params", np.float32)
    state = require_vector(buffers, "buffers", np.float32)
    require_integer(n_rows, "n_rows", low=1, high=MAX_ROWS, error=ValueError)
    if plan.epochs is not None and plan.epochs * _batches_per_epoch(n_rows, plan) > MAX_STEPS:
        raise ValueError(f"epochs must give at most {MAX_STEPS} steps over {n_rows} rows")
    current = start.copy()
    apply = optimizer_step(plan, start.size)
    first_loss = last_loss = math.nan
    step = 0
    # A diverging run is caught by the checks below, with the step's number: numpy need not warn as well.
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in batches(n_rows, plan, rng):
            step += 1
            last_loss, slope, state = _checked(
                gradient(current, state, rows, rng), step, start.size, state.size
            )
            if step == 1:
                first_loss = last_loss
            apply(current, pulled(slope, plan, current, start), step)
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


def batches(n_rows: int, plan: LocalPlan, rng: np.random.Generator) -> Iterator[I64]:
    """Row numbers of every batch of a local training, int64[b] each; draws only permutations from ``rng``."""
    if plan.order == "stored":
        yield from _stored_batches(n_rows, plan)
    elif plan.epochs is not None:
        pieces = _batches_per_epoch(n_rows, plan)
        for _ in range(plan.epochs):
            yield from np.array_split(_permutation(n_rows, rng), pieces)
    else:
        yield from _endless_batches(n_rows, plan, rng)


def _stored_batches(n_rows: int, plan: LocalPlan) -> Iterator[I64]:
    per_pass = [
        np.arange(start, min(start + plan.batch_size, n_rows), dtype=np.int64)
        for start in range(0, n_rows, plan.batch_size)
    ]
    steps = plan.steps if plan.epochs is None else plan.epochs * len(per_pass)
    for step in range(steps or 0):
        yield per_pass[step % len(per_pass)]


def _endless_batches(n_rows: int, plan: LocalPlan, rng: np.random.Generator) -> Iterator[I64]:
    size = min(plan.batch_size, n_rows)
    queue = _permutation(n_rows, rng)
    for _ in range(plan.steps or 0):
        if queue.size < size:
            queue = np.concatenate([queue, _permutation(n_rows, rng)])
        yield queue[:size]
        queue = queue[size:]


def _permutation(n_rows: int, rng: np.random.Generator) -> I64:
    return rng.permutation(n_rows).astype(np.int64, copy=False)


_Apply = Callable[[F32, F32, int], None]


def optimizer_step(plan: LocalPlan, size: int) -> _Apply:
    """``apply(parameters f32[size], gradient f32[size], step)``: one step of the plan's optimiser, in place.

    Steps are counted from 1; what the optimiser remembers lives in the function.
    """
    return _adam(plan, size) if plan.optimizer == "adam" else _sgd(plan, size)


def _sgd(plan: LocalPlan, size: int) -> _Apply:
    """``v = momentum * v + g; w -= learning_rate * v`` (as PyTorch: no dampening)."""
    velocity = np.zeros(size if plan.momentum else 0, np.float32)
    scaled = np.empty(size, np.float32)
    rate, momentum = np.float32(plan.learning_rate), np.float32(plan.momentum)

    def apply(current: F32, slope: F32, _step: int) -> None:
        if plan.momentum:
            np.multiply(velocity, momentum, out=velocity)
            slope = np.add(velocity, slope, out=velocity)
        np.multiply(slope, rate, out=scaled)
        np.subtract(current, scaled, out=current)

    return apply


def _adam(plan: LocalPlan, size: int) -> _Apply:
    """Adam with bias correction. Source: Kingma & Ba 2014 (arXiv 1412.6980), algorithm 1."""
    first, second = np.zeros(size, np.float32), np.zeros(size, np.float32)
    beta1, beta2 = np.float32(plan.beta1), np.float32(plan.beta2)
    one = np.float32(1)

    def apply(current: F32, slope: F32, step: int) -> None:
        np.add(first * beta1, (one - beta1) * slope, out=first)
        np.add(second * beta2, (one - beta2) * (slope * slope), out=second)
        rate = np.float32(plan.learning_rate / (1.0 - plan.beta1**step))
        root = np.sqrt(second / np.float32(1.0 - plan.beta2**step))
        current -= rate * first / (root + np.float32(plan.epsilon))

    return apply
