"""What an update was worth: the hidden-set gradient, integrated along the round's step, times the update.

Aumann-Shapley values of the game in which every data owner sends a fraction of its update. Linear in the
update; the cost is ``midpoints`` gradients whatever the number of data owners, plus their dot products.
Source: Aumann & Shapley, Values of Non-Atomic Games (1974); as attribution: Sundararajan et al. 2017
(arXiv 1703.01365), eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import F64, require_integer, require_number, require_vector, stable_dot

GradientBlocks: TypeAlias = Callable[[F64], F64]
"""``params f64[P] -> f64[blocks, P]``: the mean gradient per sample of equal hidden-set blocks."""

SHARE_TOLERANCE = 1e-9
MAX_MIDPOINTS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class PathValue:
    """Values of one round, in nats per hidden-set sample, in the order of the updates.

    ``standard_errors`` are over the choice of the hidden set (jackknife over its blocks). ``gain_estimate``
    is the integral along the step itself, before any projection: the loss that the round took off. Without
    projection, and with a step that is the weighted mean of the updates, the values sum to it.
    """

    values: F64
    standard_errors: F64
    gain_estimate: float


def path_value(
    gradient_blocks: GradientBlocks,
    start: F64,
    step: F64,
    updates: Sequence[F64],
    shares: Sequence[float],
    *,
    midpoints: int = 5,
    previous_step: F64 | None = None,
) -> PathValue:
    """Give ``value_i = share_i * <G, u_i>`` with ``G = -mean over midpoints of the hidden-set gradient``.

    ``start`` and ``step`` f64[P] are the model before the round and what the round added to it; ``updates``
    are f64[P] each; ``shares`` are non-negative and sum to 1 over the accepted ones (0 for the others).
    With ``previous_step`` f64[P], G is projected off it: sending the last step again is then worth nothing.

    Raises:
        DataRefused: vectors of a wrong type or size, not finite, none at all; a gradient that is not
            f64[B, P] with the same B >= 2 at every midpoint, or not finite.
        ConfigRefused: shares that are negative, too few or do not sum to 1; midpoints outside 1..1000.
    """
    count = require_integer(midpoints, "midpoints", low=1, high=MAX_MIDPOINTS)
    base = require_vector(start, "start", np.float64, error=DataRefused)
    path = require_vector(step, "step", np.float64, size=base.size, error=DataRefused)
    vectors = [
        require_vector(update, f"updates[{index}]", np.float64, size=base.size, error=DataRefused)
        for index, update in enumerate(updates)
    ]
    parts = _checked_shares(shares, len(vectors))
    blocks = _integrate(gradient_blocks, base, path, count)
    gain = float(np.mean(_block_products(blocks, path)))
    if previous_step is not None:
        last = require_vector(previous_step, "previous_step", np.float64, size=base.size, error=DataRefused)
        blocks = _project_off(blocks, last)
    values, errors = np.zeros(len(vectors)), np.zeros(len(vectors))
    for index, (vector, share) in enumerate(zip(vectors, parts, strict=True)):
        if share == 0.0:
            continue
        per_block = share * _block_products(blocks, vector)
        values[index] = np.mean(per_block)
        errors[index] = _jackknife_error(per_block)
    return PathValue(values, errors, gain)


def _checked_shares(shares: Sequence[float], count: int) -> list[float]:
    if count == 0:
        raise DataRefused("must hold at least one update", where="updates")
    if len(shares) != count:
        raise ConfigRefused(f"must be {count}, one per update, not {len(shares)}", where="shares")
    parts = [require_number(share, f"shares[{i}]", low=0, high=1) for i, share in enumerate(shares)]
    total = math.fsum(parts)
    if abs(total - 1.0) > SHARE_TOLERANCE:
        raise ConfigRefused(f"must sum to 1, not {total}", where="shares")
    return parts


def _integrate(gradient_blocks: GradientBlocks, base: F64, path: F64, count: int) -> F64:
    """Minus the mean over midpoints, f64[blocks, P]."""
    total: F64 | None = None
    for k in range(count):
        slopes = gradient_blocks(base + ((k + 0.5) / count) * path)
        where = f"gradient_blocks at midpoint {k}"
        if not isinstance(slopes, np.ndarray) or slopes.dtype != np.float64 or slopes.ndim != 2:
            raise DataRefused("must give a float64 array of shape [blocks, P]", where=where)
        if slopes.shape[0] < 2 or slopes.shape[1] != base.size:
            raise DataRefused(
                f"must give at least 2 blocks of {base.size} numbers, not {slopes.shape}", where=where
            )
        if not bool(np.isfinite(slopes).all()):
            raise DataRefused("must be finite; it contains NaN or infinity", where=where)
        if total is None:
            total = np.zeros(slopes.shape)
        elif total.shape != slopes.shape:
            raise DataRefused(f"must have the same shape at every midpoint, not {slopes.shape}", where=where)
        total -= slopes
    if total is None:
        raise ConfigRefused("midpoints must be at least 1")
    return total / count


def _block_products(blocks: F64, vector: F64) -> F64:
    """``<block_b, vector>`` for every block, f64[blocks], without BLAS."""
    return np.array([stable_dot(block, vector) for block in blocks])


def _project_off(blocks: F64, direction: F64) -> F64:
    """Take the part along ``direction`` out of every block; a zero direction takes nothing."""
    largest = float(np.max(np.abs(direction), initial=0.0))
    if largest == 0.0:
        return blocks
    unit = direction / largest
    along = _block_products(blocks, unit) / stable_dot(unit, unit)
    return blocks - along[:, None] * unit


def _jackknife_error(per_block: F64) -> float:
    """Standard error of the mean over blocks; for a mean the jackknife gives ``std / sqrt(blocks)``."""
    n = per_block.size
    left_out = (np.sum(per_block) - per_block) / (n - 1)
    spread = left_out - np.mean(left_out)
    return math.sqrt((n - 1) / n * float(np.sum(spread * spread)))
