"""What an update was worth: the hidden-set gradient, integrated along the round's step, times the update.

Aumann-Shapley values of the game in which every data owner sends a fraction of its update. Linear in the
update; the cost is ``midpoints`` gradients whatever the number of data owners, plus their products. The
gradient is rounded to integers before the products are taken: they are then exact, so a value depends neither
on the order of a sum nor on the machine, and is what masked mode can open, a public integer functional of an
update.
Source: Aumann & Shapley, Values of Non-Atomic Games (1974); as attribution: Sundararajan et al. 2017
(arXiv 1703.01365), eq. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.exact import (
    MANTISSA_BITS,
    TILE_BITS,
    IntRows,
    Spread,
    one_by_one,
    require_rows,
    row_magnitude,
    tiled_products,
)
from galaxylearning.learning.quantise import largest_level
from galaxylearning.learning.vectors import (
    F64,
    I32,
    I64,
    require_integer,
    require_number,
    require_vector,
    stable_dot,
)

GradientBlocks: TypeAlias = Callable[[F64], F64]
"""``params f64[P] -> f64[blocks, P]``: the mean gradient per sample of equal hidden-set blocks."""

SHARE_TOLERANCE = 1e-9
MAX_MIDPOINTS = 1000
MAX_UPDATE_BITS = 24
REAL_UPDATE_BITS = 22
"""Real updates become integers of this many bits: G then has about as many, and both err alike."""

SMALLEST_GRADIENT = 1e-250
"""A gradient without a number above this counts as zero: its values are below every unit of account."""


@dataclass(frozen=True, slots=True, eq=False)
class PathValue:
    """Values of one round, in units of the loss per hidden-set sample, in the order of the updates.

    ``standard_errors`` are over the choice of the hidden set (jackknife over its blocks). ``gain_estimate``
    is the integral along the step itself, before any projection: the loss that the round took off. Without
    projection, and with a step that is the weighted mean of the updates, the values sum to it.
    """

    values: F64
    standard_errors: F64
    gain_estimate: float


class PathScorer:
    """Values of one round: ``value_i = share_i * <G, u_i>`` with G the integrated hidden-set gradient.

    ``G = -mean over midpoints`` of ``gradient_blocks`` along ``step`` f64[P] from ``start`` f64[P]; with
    ``previous_step`` f64[P] it is projected off that, so sending the last step again is worth nothing.

    G becomes integers of one scale for all blocks: ``gradient_bits(update_bits)`` of them, one less for as
    long as the sum of all products could leave 63 bits. Rounding moves a value by at most
    ``share * scale / 2 * sum |u|`` (see docs/adr/0013).

    Raises:
        DataRefused: vectors of a wrong type or size, not finite; a gradient that is not f64[B, P] with the
            same B >= 2 at every midpoint, or not finite.
        ConfigRefused: midpoints outside 1..1000, update_bits outside 2..24.
    """

    def __init__(
        self,
        gradient_blocks: GradientBlocks,
        start: F64,
        step: F64,
        *,
        update_bits: int,
        midpoints: int = 5,
        previous_step: F64 | None = None,
    ) -> None:
        bits = require_integer(update_bits, "update_bits", low=2, high=MAX_UPDATE_BITS)
        count = require_integer(midpoints, "midpoints", low=1, high=MAX_MIDPOINTS)
        base = require_vector(start, "start", np.float64, error=DataRefused)
        path = require_vector(step, "step", np.float64, size=base.size, error=DataRefused)
        last = previous_step
        if last is not None:
            last = require_vector(last, "previous_step", np.float64, size=base.size, error=DataRefused)
        blocks = _integrate(gradient_blocks, base, path, count)
        self.gain_estimate = float(np.mean([stable_dot(block, path) for block in blocks]))
        if last is not None:
            _project_off(blocks, last)
        self._row_limit = 1 << 15 if bits <= 16 else largest_level(bits)
        self.scale = _to_integers(blocks, gradient_bits(bits), self._row_limit)
        self._blocks = blocks

    @property
    def functional(self) -> I64:
        """The public integer vector g int64[P] of which ``share * unit * scale / B * <g, x>`` is a value."""
        total: I64 = np.sum(self._blocks, axis=0).astype(np.int64)
        return total

    @property
    def mean_gradient(self) -> F64:
        """G f64[P], in units of the loss per sample and unit of a parameter, as rounded."""
        total = self.functional.astype(np.float64)
        total *= self.scale / len(self._blocks)
        return total

    def error_along(self, direction: F64) -> float:
        """Standard error of ``<G, direction>`` for f64[P], over the choice of the hidden set."""
        along = np.array([stable_dot(block, direction) for block in self._blocks]) * self.scale
        return float(np.std(along, ddof=1) / math.sqrt(len(along)))

    def values(
        self,
        chunks: Iterable[IntRows],
        shares: Sequence[float] | F64,
        *,
        unit: float | F64,
        spread: Spread = one_by_one,
    ) -> PathValue:
        """Value updates in one pass over ``chunks`` of their integers, [m, P] each, int16 or int32.

        ``shares`` are non-negative and sum to 1 over the accepted ones (0 for the others), one for every row
        of all chunks; ``unit`` is what an integer of an update stands for in parameters, one number or one
        per row. One chunk is held at a time.

        Raises:
            DataRefused: no row, or another number of rows than shares; integers beyond ``update_bits``.
            UpdateRefused: chunks of another type or shape.
            ConfigRefused: shares that are negative or do not sum to 1.
        """
        parts = _checked_shares(shares)
        blocks, width = self._blocks.shape
        found = np.zeros((parts.size, blocks), np.int64)
        at = 0
        for index, chunk in enumerate(chunks):
            rows = require_rows(chunk, f"chunks[{index}]", columns=width)
            if at + len(rows) > parts.size:
                raise DataRefused(f"must hold {parts.size} rows in all, one per share", where="chunks")
            if row_magnitude(rows) > self._row_limit:
                raise DataRefused(f"must lie within ±{self._row_limit}", where=f"chunks[{index}]")
            found[at : at + len(rows)] = tiled_products(rows, self._blocks, spread=spread)
            at += len(rows)
        if at != parts.size or at == 0:
            raise DataRefused(f"must hold at least one update, one per share; {at} found", where="updates")
        factors = parts * unit * self.scale
        # Sums over blocks in a fixed order: first exactly, then elementwise.
        values = np.sum(found, axis=1).astype(np.float64) / blocks
        spreads = np.zeros(parts.size)
        for block in range(blocks):
            spreads += np.square(found[:, block].astype(np.float64) - values)
        # The jackknife of a mean over blocks: their standard deviation over sqrt(blocks).
        errors = np.sqrt(spreads / (blocks * (blocks - 1)))
        # Adding 0.0 makes minus zero zero.
        return PathValue(factors * values + 0.0, factors * errors + 0.0, self.gain_estimate)


def gradient_bits(update_bits: int) -> int:
    """Bits of the largest integer of G, beside its sign: what exact products in tiles leave room for.

    27 for updates of up to 16 bits, 19 for 24 bits.
    """
    return MANTISSA_BITS - TILE_BITS - max(update_bits - 1, 15)


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
    """``PathScorer`` on real updates f64[P] each: every one is rounded to 22 bits of its largest number.

    Raises:
        DataRefused: as ``PathScorer``; updates of a wrong type or size, not finite, none at all.
        ConfigRefused: as ``PathScorer``; shares that are negative, too few or do not sum to 1.
    """
    vectors = [
        require_vector(update, f"updates[{index}]", np.float64, size=start.size, error=DataRefused)
        for index, update in enumerate(updates)
    ]
    if not vectors:
        raise DataRefused("must hold at least one update", where="updates")
    if len(shares) != len(vectors):
        raise ConfigRefused(f"must be {len(vectors)}, one per update, not {len(shares)}", where="shares")
    scorer = PathScorer(
        gradient_blocks,
        start,
        step,
        update_bits=REAL_UPDATE_BITS,
        midpoints=midpoints,
        previous_step=previous_step,
    )
    largest = np.array([float(np.max(np.abs(vector), initial=0.0)) for vector in vectors])
    units = np.maximum(largest, SMALLEST_GRADIENT) / largest_level(REAL_UPDATE_BITS)

    def rounded() -> Iterator[I32]:
        for vector, unit in zip(vectors, units, strict=True):
            yield np.rint(vector / unit).astype(np.int32)[None]

    return scorer.values(rounded(), shares, unit=units)


def _checked_shares(shares: Sequence[float] | F64) -> F64:
    parts = [require_number(share, f"shares[{i}]", low=0, high=1) for i, share in enumerate(shares)]
    total = math.fsum(parts)
    if parts and abs(total - 1.0) > SHARE_TOLERANCE:
        raise ConfigRefused(f"must sum to 1, not {total}", where="shares")
    return np.array(parts)


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
        if total is None:
            total = np.zeros(slopes.shape)
        elif total.shape != slopes.shape:
            raise DataRefused(f"must have the same shape at every midpoint, not {slopes.shape}", where=where)
        total -= slopes
    if total is None:
        raise ConfigRefused("midpoints must be at least 1")
    # Whatever is not finite at one midpoint is not in the sum either.
    if not bool(np.isfinite(total).all()):
        raise DataRefused("must be finite; it contains NaN or infinity", where="gradient_blocks")
    total /= count
    return total


def _project_off(blocks: F64, direction: F64) -> None:
    """Take the part along ``direction`` out of every block, in place; a zero direction takes nothing."""
    largest = float(np.max(np.abs(direction), initial=0.0))
    if largest == 0.0:
        return
    unit = direction / largest
    square = stable_dot(unit, unit)
    for block in blocks:
        block -= (stable_dot(block, unit) / square) * unit


def _to_integers(blocks: F64, bits: int, row_limit: int) -> float:
    """Round ``blocks`` to multiples of the scale that is given back, in place, and divide by it.

    One scale for all blocks, so that their sum is an integer functional too.
    """
    largest = max(float(max(block.max(), -block.min())) for block in blocks) if blocks.size else 0.0
    if largest < SMALLEST_GRADIENT:
        blocks[:] = 0.0
        return 0.0
    total = sum(float(np.sum(np.abs(block))) for block in blocks) / largest
    # The sum of |g| over all blocks and parameters, with half a unit of rounding each, times the largest |x|.
    while (total * 2.0**bits + blocks.size / 2) * row_limit * 1.001 >= 2.0**63:
        bits -= 1
    levels = float((1 << bits) - 1)
    for block in blocks:
        block *= levels / largest
        np.rint(block, out=block)
    return largest / levels
