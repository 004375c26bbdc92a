"""Robust rules that look at one coordinate at a time: exact integers over an exact divisor.

Columns are worked off in pieces, so that sorted copies stay small. What comes out does not depend on the
order of the updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.learning.vectors import I64

Columns: TypeAlias = npt.NDArray[Any]
"""Integers [m, p]: some columns of the updates, or of sums of updates."""

PIECE_ELEMENTS = 1 << 20


def trimmed_mean(rows: Columns, faulty: int) -> tuple[I64, int]:
    """Sum int64[P] and number of what is left in each coordinate without the ``faulty`` largest and smallest.

    Needs ``2 * faulty < m``. Source: Yin, Chen, Ramchandran & Bartlett 2018 (arXiv 1803.01498), definition 2.
    """
    count = len(rows)

    def middle(piece: Columns) -> I64:
        ordered = np.sort(piece, axis=0)
        found: I64 = ordered[faulty : count - faulty].sum(axis=0, dtype=np.int64)
        return found

    return _by_columns(rows, middle), count - 2 * faulty


def median(rows: Columns) -> tuple[I64, int]:
    """Coordinate-wise median of m >= 1 rows as (int64[P], 1), or as the sum of the middle two and 2.

    Source: Yin, Chen, Ramchandran & Bartlett 2018 (arXiv 1803.01498), definition 1.
    """
    low, high = (len(rows) - 1) // 2, len(rows) // 2

    def middle(piece: Columns) -> I64:
        places = np.partition(piece, (low, high), axis=0)
        first: I64 = places[low].astype(np.int64)
        return first if low == high else first + places[high]

    return _by_columns(rows, middle), 1 if low == high else 2


def mean_around_median(rows: Columns, kept: int) -> tuple[I64, int]:
    """Sum int64[P] of the ``kept`` values closest to the median in each coordinate, and ``kept``.

    Of two that are equally close, the smaller one. Source: El Mhamdi, Guerraoui & Rouault 2018
    (arXiv 1802.07927), the second phase of Bulyan.
    """
    low, high = (len(rows) - 1) // 2, len(rows) // 2

    def closest(piece: Columns) -> I64:
        ordered = np.sort(piece, axis=0).astype(np.int64)
        doubled_median = ordered[low] + ordered[high]
        away = np.abs(2 * ordered - doubled_median)
        places = np.argsort(away, axis=0, kind="stable")[:kept]
        found: I64 = np.take_along_axis(ordered, places, axis=0).sum(axis=0)
        return found

    return _by_columns(rows, closest), kept


def _by_columns(rows: Columns, function: Callable[[Columns], I64]) -> I64:
    found = np.empty(rows.shape[1], np.int64)
    for here in _pieces(rows.shape):
        found[here] = function(rows[:, here])
    return found


def _pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    width = max(1, PIECE_ELEMENTS // max(1, shape[0]))
    return (slice(left, min(left + width, shape[1])) for left in range(0, shape[1], width))
