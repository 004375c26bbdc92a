"""Weights that a sum may be taken with: each is carried by many, so that none of them can be told apart.

Modulo a common factor of all weights but one, a weighted sum is the remaining update: of weights 15, ...,
15, 14 it shows 14 x modulo 15. Where every weight is that of at least ``minimum`` updates, the sum is a
combination of plain sums over so many, and shows no more than these.
"""

from __future__ import annotations

import numpy as np

from galaxylearning.errors import ConfigRefused, QuorumMissing
from galaxylearning.learning.vectors import I64


def check_carried(weights: I64, minimum: int) -> None:
    """Refuse a sum in which fewer than ``minimum`` updates share a weight.

    Raises:
        QuorumMissing: naming the weight.
    """
    values, counts = np.unique(weights[weights > 0], return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if count < minimum:
            raise QuorumMissing(
                f"weight {value} must be that of at least {minimum} owners, not {count}", where="weights"
            )


def shared_weights(weights: I64, minimum: int) -> I64:
    """Weights int64[m] from 0, lowered so that each is carried by at least ``minimum`` updates.

    Nobody's weight grows. Of all ways to do it, one that keeps the most weight: equal weights stay together,
    and whoever's weight is so much smaller than the others' that they would have to come down to it gets 0.
    Ties go to the earlier update. With fewer than ``minimum`` weights above 0 all become 0.

    Raises:
        ConfigRefused: ``minimum`` is below 1.
    """
    if minimum < 1:
        raise ConfigRefused(f"must be at least 1, not {minimum}", where="minimum")
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] > 0]
    falling = weights[order].tolist()
    count = len(falling)
    # A group gets its smallest weight. More than 2 * minimum - 1 in a group could be parted at no loss.
    best, start = [0] * (count + 1), [-1] * (count + 1)
    for end in range(1, count + 1):
        best[end] = best[end - 1]
        for size in range(minimum, min(2 * minimum, end + 1)):
            kept = best[end - size] + size * falling[end - 1]
            if kept > best[end]:
                best[end], start[end] = kept, end - size
    found = np.zeros_like(weights)
    end = count
    while end > 0:
        if start[end] >= 0:
            found[order[start[end] : end]] = falling[end - 1]
            end = start[end]
        else:
            end -= 1
    return found
