"""Differential privacy at a data owner's: noisy training over single examples, or noise on a whole update.

``train_private`` hides each row from whoever sees the update; ``noisy_integers`` adds a data owner's share of
noise to the integers it sends. Noise is drawn exactly, over integers, from ``entropy``: no statistical
generator and no floating-point sample ever protects a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from galaxylearning.crypto.secret_stream import SecretStream
from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.checkpoint import Checkpoint, Keeper, Position
from galaxylearning.learning.discrete_gaussian import discrete_gaussian
from galaxylearning.learning.local import MAX_ROWS, LocalResult, optimizer_step, pulled
from galaxylearning.learning.plan import MAX_STEPS, LocalPlan
from galaxylearning.learning.quantise import Quantizer
from galaxylearning.learning.vectors import (
    F32,
    F64,
    I32,
    I64,
    require_integer,
    require_number,
    require_vector,
)
from galaxylearning.units import Entropy

GRID: Final = 1 << 26
"""Standard deviation of the noise of a step, in steps of the grid that clipped gradients are cut to.

A discrete Gaussian of this width and a real one that is rounded differ by a factor of 1 ± 2^-49 in the
probability of each value within 12 standard deviations; beyond lie 2^-107.
"""
EXAMPLE_BYTES: Final = 64 << 20
"""Gradients of single examples are held for at most about so many bytes of examples at a time."""
SHRINK: Final = 1.0 - 2.0**-40
"""Clipped norms are made this much smaller, so that no rounding of the scaling leaves the bound."""
_COPIES = 16
"""Bytes that an example's gradient takes for each parameter while it is clipped."""


class ExampleGradients(Protocol):
    """Gradients of single rows."""

    def __call__(self, params: F32, buffers: F32, rows: I64, rng: np.random.Generator, /) -> F32:
        """The gradient of the loss of each of ``rows`` int64[b], f32[b, P]."""
        ...


@dataclass(frozen=True, slots=True)
class ExampleNoise:
    """Every example's gradient is clipped to an L2 norm of ``example_clip``.

    The sum of a step's examples gets noise with a standard deviation of ``multiplier * example_clip`` in each
    coordinate.

    Raises:
        ValueError: naming the field and what is allowed.
    """

    multiplier: float
    example_clip: float

    def __post_init__(self) -> None:
        require_number(self.multiplier, "multiplier", low=0.01, high=1e4, error=ValueError)
        require_number(self.example_clip, "example_clip", low=0, high=1e6, low_open=True, error=ValueError)

    @property
    def unit(self) -> float:
        """One step of the grid, in the unit of the gradient."""
        return self.multiplier * self.example_clip / GRID


def private_steps(n_rows: int, plan: LocalPlan) -> int:
    """How many noisy steps a round takes: ``steps``, or ``epochs`` times the batches of one pass.

    Raises:
        ValueError: more than ``MAX_STEPS``, or ``n_rows`` out of range.
    """
    require_integer(n_rows, "n_rows", low=1, high=MAX_ROWS, error=ValueError)
    steps = plan.steps if plan.epochs is None else plan.epochs * -(-n_rows // plan.batch_size)
    return require_integer(steps, "steps", low=1, high=MAX_STEPS, error=ValueError)


def train_private(
    gradients: ExampleGradients,
    params: F32,
    buffers: F32,
    n_rows: int,
    plan: LocalPlan,
    noise: ExampleNoise,
    *,
    rng: np.random.Generator,
    entropy: Entropy,
    checkpoint: Checkpoint | None = None,
) -> LocalResult:
    """DP-SGD: train from ``params`` on rows ``0..n_rows-1``, the inputs left unchanged.

    In each of ``private_steps`` steps every row takes part with probability ``batch_size / n_rows`` (at most
    1), independently and secretly; the sum of their clipped gradients plus noise is divided by
    ``batch_size``, however many took part, and given to the plan's optimiser. Which rows take part and the
    noise come from ``entropy``; ``rng`` is for dropout, which protects nobody. A gradient that is not finite
    counts as zero: to refuse it would tell of its row. The result's losses are NaN: no loss is protected.

    A training that goes on from ``checkpoint`` draws the noise of its remaining steps anew: as many noisy
    steps are told of as without a restart.

    Raises:
        UpdateRefused: the result is not finite, or gradients have a wrong shape.
        ValueError: ``n_rows`` out of range, too many steps, or a plan that takes rows in stored order.
    Source: Abadi et al., "Deep Learning with Differential Privacy" (arXiv 1607.00133), algorithm 1.
    """
    if plan.order != "shuffled":
        raise ValueError("order must be shuffled: which rows a step takes must be secret")
    start = require_vector(params, "params", np.float32)
    state = require_vector(buffers, "buffers", np.float32)
    steps = private_steps(n_rows, plan)
    stream = SecretStream(entropy)
    current, apply, done = start.copy(), optimizer_step(plan, start.size), 0
    keeper = Keeper(checkpoint, plan, n_rows, start, state, rng)
    if (kept := keeper.resume(start, state, apply.memory)) is not None:
        current, done = kept.parameters, kept.step
        apply.remember(kept.memory)
    per_pass = -(-n_rows // plan.batch_size)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(done + 1, steps + 1):
            rows = poisson_sample(n_rows, plan.batch_size, stream=stream)
            total = clipped_sum(gradients, current, state, rows, noise, rng=rng)
            total += discrete_gaussian(start.size, GRID * GRID, stream=stream)
            slope = (total * (noise.unit / plan.batch_size)).astype(np.float32)
            apply(current, pulled(slope, plan, current, start), step)
            if step % per_pass == 0 and keeper.is_due():
                nothing = np.empty(0, np.int64)
                keeper.save(Position(step, math.nan, math.nan, current, state, apply.memory, nothing))
        update = current - start
    if not bool(np.isfinite(update).all()):
        raise UpdateRefused(f"the parameters are not finite after step {steps}", where="update")
    return LocalResult(update, state.copy(), steps, math.nan, math.nan)


def poisson_sample(n_rows: int, expected: int, *, stream: SecretStream) -> I64:
    """Rows of a step, ascending int64[b], b from 0; each has probability ``expected / n_rows``, at most 1."""
    if expected >= n_rows:
        return np.arange(n_rows, dtype=np.int64)
    return np.flatnonzero(stream.below(n_rows, n_rows) < expected)


def clipped_sum(
    gradients: ExampleGradients,
    params: F32,
    buffers: F32,
    rows: I64,
    noise: ExampleNoise,
    *,
    rng: np.random.Generator,
) -> F64:
    """Sum over ``rows`` of their clipped gradients, f64[P] of whole steps of the grid, exact below 2^53.

    Cutting goes towards zero, so no example's integers are longer than ``example_clip / unit``; one row more
    or less moves the sum by no more than that. Memory is bounded whatever the number of rows.

    Raises:
        UpdateRefused: gradients of a wrong type or shape.
    """
    total = np.zeros(params.size)
    at_once = max(1, EXAMPLE_BYTES // (_COPIES * max(1, params.size)))
    for low in range(0, rows.size, at_once):
        part = rows[low : low + at_once]
        found = gradients(params, buffers, part, rng)
        if found.dtype != np.float32 or found.shape != (part.size, params.size):
            raise UpdateRefused(
                f"must be float32 of shape {(part.size, params.size)}, not {found.dtype} of {found.shape}",
                where="gradients of examples",
            )
        total += _clipped_steps(found, noise).sum(axis=0)
    return total


def _clipped_steps(gradients: F32, noise: ExampleNoise) -> F64:
    """Each row of ``gradients`` f32[b, P] clipped and cut to whole steps of the grid, f64[b, P]."""
    wide = gradients.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    is_finite = np.isfinite(norms)
    if not bool(is_finite.all()):
        wide[~is_finite], norms[~is_finite] = 0.0, 0.0
    factors = np.minimum(1.0, noise.example_clip / np.maximum(norms, noise.example_clip * 2.0**-60))
    wide *= (factors * (SHRINK / noise.unit))[:, None]
    return np.trunc(wide, out=wide)


def noisy_integers(
    update: F32, quantizer: Quantizer, max_norm: float, variance: int, *, entropy: Entropy
) -> I32:
    """Clip ``update`` f32[P], make it integers no longer than the clipped norm, and add a share of noise.

    ``variance`` is the share's, in squared integers. Rounding goes towards zero: to nearest, it could
    lengthen the vector by half a unit in every coordinate, which noise made for the norm would not cover.
    What leaves the quantiser's range saturates; its range should leave room for the noise.

    Raises:
        UpdateRefused: not a finite float32 vector.
    """
    vector = require_vector(update, "update", np.float32).astype(np.float64)
    norm = math.sqrt(float(np.sum(vector * vector)))
    if norm > max_norm:
        vector *= SHRINK * max_norm / norm
    whole = np.trunc(vector * quantizer.scale).astype(np.int64)
    whole += discrete_gaussian(whole.size, variance, stream=SecretStream(entropy))
    return np.clip(whole, -quantizer.levels, quantizer.levels).astype(np.int32)
