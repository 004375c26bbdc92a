"""The weighted integer sum of a round: exact, the same bytes in any order on any machine."""

from __future__ import annotations

import numpy as np

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.exact import IntRows, Spread, exact_weighted_sum, one_by_one, require_rows
from galaxylearning.learning.quantise import MAX_WEIGHT
from galaxylearning.learning.vectors import I64, require_vector


def aggregate(updates: IntRows, weights: I64, *, spread: Spread = one_by_one) -> tuple[I64, int]:
    """Give ``(sum int64[P], total_weight)`` of ``weights[i] * updates[i]`` over rows int16 or int32 [m, P].

    The weights int64[m] are the gate's, or 1 for all; a row of weight 0 does not count. They are never a
    claimed sample count.

    Raises:
        UpdateRefused: rows of another type or shape; weights outside 0..2**20, too few, or all 0; a sum that
            could leave 63 bits.
    """
    rows = require_rows(updates, "updates")
    factors = require_vector(weights, "weights", np.int64, size=len(rows))
    if factors.size == 0 or int(factors.max()) == 0:
        raise UpdateRefused("must hold at least one update that counts", where="updates")
    if int(factors.min()) < 0 or int(factors.max()) > MAX_WEIGHT:
        raise UpdateRefused(f"must be from 0 to {MAX_WEIGHT}", where="weights")
    return exact_weighted_sum(rows, factors, spread=spread), int(factors.sum())
