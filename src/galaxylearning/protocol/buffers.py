"""Buffers (BatchNorm's means and variances) between rounds: how far they may move, where a sum takes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from galaxylearning.learning import Quantizer
from galaxylearning.learning.exact import exact_squares, lower_median
from galaxylearning.learning.vectors import F32, I32, I64
from galaxylearning.protocol.updates import BUFFER_BITS, BUFFER_RANGE

BUFFER_EXCESS = 4
"""The gate rejects buffers that moved this many times further than usual: no gradient speaks of them."""


def moved_too_far(changes: I32, accepted: NDArray[np.bool_], reference: I32) -> NDArray[np.bool_]:
    """Whose accepted buffers moved ``BUFFER_EXCESS`` times further than usual and the hidden set's, bool[m].

    What is usual is the smaller one of two lower medians, the accepted ones' and everybody's, as of the norms
    of updates (``learning.gate``).
    """
    if not reference.size or not bool(accepted.any()):
        return np.zeros(len(changes), np.bool_)
    squares = exact_squares(changes)
    usual = min(lower_median(squares[accepted]), lower_median(squares))
    allowed = BUFFER_EXCESS**2 * max(usual, int(exact_squares(reference[None])[0]))
    return accepted & (squares > allowed)


def buffers_after(buffers: F32, change: I32 | I64, weight: int) -> F32:
    """Buffers after a (summed) change."""
    step = Quantizer(BUFFER_BITS, BUFFER_RANGE).dequantize(change, weight)
    return (buffers.astype(np.float64) + step).astype(np.float32)
