"""The weighted integer sum of a round: exact, streaming, the same bytes in any order on any machine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.quantise import MAX_WEIGHT
from galaxylearning.learning.vectors import I32, I64, largest_magnitude, require_integer, require_vector

_INT64_MAX = 2**63 - 1


def aggregate(updates: Iterable[tuple[int, I32]]) -> tuple[I64, int]:
    """Give ``(sum int64[P], total_weight)`` of ``weight * update`` over ``(weight, int32[P])`` pairs.

    One update is held at a time. The weights are the gate's or 1: never a claimed sample count.

    Raises:
        UpdateRefused: no update; one of another type or size; a weight outside 1..2**20; a sum that could
            leave 63 bits. The message names the update by its position.
    """
    total: I64 | None = None
    total_weight = bound = 0
    for index, (weight, update) in enumerate(updates):
        field = f"updates[{index}]"
        size = None if total is None else total.size
        vector = require_vector(update, field, np.int32, size=size)
        by = require_integer(weight, f"{field} weight", low=1, high=MAX_WEIGHT, error=UpdateRefused)
        bound += by * largest_magnitude(vector)
        if bound > _INT64_MAX:
            raise UpdateRefused("the weighted sum could exceed 63 bits", where=field)
        if total is None:
            total = np.zeros(vector.size, np.int64)
        total += vector.astype(np.int64) * by
        total_weight += by
    if total is None:
        raise UpdateRefused("must hold at least one update", where="updates")
    return total, total_weight
