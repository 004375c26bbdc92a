"""The gate before anything is averaged: which updates count, and how much.

An update counts when it points the way of a step on the hidden set. Its integer weight falls with the square
of its norm over the usual one, so that a longer update moves the model less, not more; and it shrinks where
it points that way less than the best quarter of the updates: whoever hides an attack across the hidden set's
direction (a backdoor) pays for it in weight. The usual norm is the smaller one of two medians: in a round in
which chance turns most honest updates away, those that are left may be the long ones.

All decisions are made in exact integers, so every evaluator makes the same ones, in any order of the updates.
Nothing a data owner claims (a sample count) is looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galaxylearning.learning.exact import (
    BigInts,
    IntRows,
    Spread,
    exact_products,
    exact_squares,
    lower_median,
    one_by_one,
    require_rows,
)
from galaxylearning.learning.quantise import MAX_WEIGHT
from galaxylearning.learning.vectors import F64, I64, exact_dot, require_integer, require_vector

ZERO_UPDATE = "zero update"
NO_REFERENCE = "zero reference step"
AGAINST_REFERENCE = "cosine to the hidden-set step is not positive"
TOO_LARGE = "norm too far above the usual one"
HARDLY_ALONG = "cosine to the hidden-set step too far below the others'"
STANDS_BADLY = "cosines to the hidden-set steps, over all rounds, too far below the medians"

REASONS = ("", ZERO_UPDATE, NO_REFERENCE, AGAINST_REFERENCE, TOO_LARGE, HARDLY_ALONG, STANDS_BADLY)
"""Why an update does not count, by ``GateTable.reasons``; 0: it counts."""

_COSINE_BITS = 256
"""Two fractions over squared norms below 2**128 that differ do so before the 256th bit."""


@dataclass(frozen=True, slots=True, eq=False)
class GateTable:
    """What the gate made of every update, in their order.

    ``weights`` int64[m] are 1..max_weight where accepted, else 0. ``cosines`` f64[m] are to the reference,
    ``norms`` f64[m] the L2 norms in quantised units; both for display only (0.0 where undefined). ``reasons``
    int8[m] are positions in ``REASONS``.
    """

    weights: I64
    cosines: F64
    norms: F64
    reasons: npt.NDArray[np.int8]

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        """Which updates count, bool[m]."""
        return self.weights > 0


def gate(updates: IntRows, reference: I64, *, max_weight: int = 15, spread: Spread = one_by_one) -> GateTable:
    """Decide on each row of ``updates`` [m, P] against ``reference`` int64[P], the quantised hidden-set step.

    Accepted: a positive product with the reference. Weight: ``max_weight * min(1, usual_norm / norm) ** 2 *
    min(1, cosine / usual_cosine)`` rounded half up; a weight of 0 is a rejection. The usual cosine is the
    upper quartile of those of positive product: of n in rising order, the one at position 3 (n - 1) // 4. The
    usual norm is the smaller one of their lower median and that of all updates but zeros. A zero reference
    accepts nothing.

    Raises:
        UpdateRefused: the updates or the reference have the wrong type or size.
        ConfigRefused: ``max_weight`` is outside 1..2**20.
    """
    step = require_vector(reference, "reference", np.int64)
    rows = require_rows(updates, "updates", columns=step.size)
    return gate_scalars(
        exact_products(rows, step[None], spread=spread)[:, 0],
        exact_squares(rows, spread=spread),
        reference_square=exact_dot(step, step),
        max_weight=max_weight,
    )


def projected_squares(projections: I64) -> BigInts:
    """Squared norms [m] times k, estimated from the products int64[m, k] with k random vectors of +-1.

    The mean of a squared product is the squared norm; its relative standard deviation is sqrt(2 / k).
    """
    wide = projections.astype(object)
    total: BigInts = (wide * wide).sum(axis=1)
    return total


def gate_scalars(
    products: BigInts, squares: BigInts, *, reference_square: int, max_weight: int = 15, copies: int = 1
) -> GateTable:
    """``gate`` from what it needs to know of every update: its product with the reference, its squared norm.

    ``products`` and ``squares`` are integers [m]; ``squares`` are ``copies`` times the squared norms.

    Raises:
        ConfigRefused: ``max_weight`` is outside 1..2**20.
    """
    top = require_integer(max_weight, "max_weight", low=1, high=MAX_WEIGHT)
    norms = np.sqrt(squares.astype(np.float64) / copies)
    weights, cosines = np.zeros(len(squares), np.int64), np.zeros(len(squares))
    reasons = np.full(len(squares), REASONS.index(AGAINST_REFERENCE), np.int8)
    if reference_square:
        lengths = norms * math.sqrt(reference_square)
        found = np.divide(products.astype(np.float64), lengths, out=cosines, where=lengths > 0)
        cosines = np.clip(found, -1.0, 1.0)
        positive = (products > 0) & (squares > 0)
        if bool(positive.any()):
            usual = min(lower_median(squares[squares > 0]), lower_median(squares[positive]))
            weights[positive], reasons[positive] = _weights(top, products[positive], squares[positive], usual)
    else:
        reasons[:] = REASONS.index(NO_REFERENCE)
    weights[squares == 0], reasons[squares == 0] = 0, REASONS.index(ZERO_UPDATE)
    return GateTable(weights, cosines, norms, reasons)


def _weights(top: int, products: BigInts, squares: BigInts, usual: int) -> tuple[I64, npt.NDArray[np.int8]]:
    """``floor(top * sqrt(fit) + 1/2)`` without a float, and why it is 0 where it is.

    ``fit`` is the product of two fractions of at most 1: the usual square over the square, all of it
    squared, and the squared cosine over the upper quartile's. The weight is the largest w with
    ``2 w - 1 <= sqrt(4 top^2 fit)``.
    """
    large, inner = squares.astype(object), products.astype(object)
    scaled, lengths = 4 * top * top * usual**2, np.maximum(large, usual) ** 2
    # Squared cosines, but for the reference's norm: fractions whose order so many bits decide.
    cosines = (inner * inner << _COSINE_BITS) // large
    quartile = np.argsort(cosines, kind="stable")[3 * (len(large) - 1) // 4]
    less = cosines < cosines[quartile]
    upper = np.where(less, inner * inner * large[quartile], 1)
    lower = np.where(less, large * inner[quartile] ** 2, 1)
    weights = _rounded_root(scaled * upper // (lengths * lower))
    by_norm = _rounded_root(scaled // lengths)
    why = np.where(by_norm > 0, REASONS.index(HARDLY_ALONG), REASONS.index(TOO_LARGE))
    return weights, np.where(weights > 0, 0, why).astype(np.int8)


def _rounded_root(quotients: BigInts) -> I64:
    # A float64 root of an integer below 2**53 never reaches the next integer, so its floor is exact.
    roots = np.floor(np.sqrt(quotients.astype(np.int64).astype(np.float64))).astype(np.int64)
    return (roots + 1) // 2
