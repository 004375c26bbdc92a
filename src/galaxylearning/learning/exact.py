"""Exact products of matrices of small integers, at the speed of floating-point matrix products.

A float64 holds every integer up to 2**53, so a matrix product of integers is exact, in whatever order the
library adds and whether or not it fuses, as long as no partial sum can pass that. Columns are therefore cut
into tiles narrow enough, numbers that are too large into limbs, and what tiles give is added as integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.vectors import F64, I64, largest_magnitude

IntRows: TypeAlias = npt.NDArray[np.int16] | npt.NDArray[np.int32]
"""One update per row, [m, P]."""

BigInts: TypeAlias = npt.NDArray[Any]
"""int64 where the result is known to fit, else Python integers (dtype object)."""

A = TypeVar("A")
B = TypeVar("B")

TILE_ROWS = 64
TILE_BITS = 11
TILE_COLUMNS = 1 << TILE_BITS
"""A tile of 64 x 2,048 doubles is 1 MiB: small enough for caches, long enough for the library's packing."""

TASK_ELEMENTS = 1 << 22
TASK_COLUMNS = 1 << 16
MANTISSA_BITS = 53
LIMB_BITS = 16

_INT64_MAX = 2**63 - 1


class Spread(Protocol):
    """How independent pieces are worked off: ``one_by_one``, or the ``map`` of an executor with threads."""

    def __call__(self, function: Callable[[A], B], items: Iterable[A], /) -> Iterable[B]:
        """Give ``function`` of every item, in order."""
        ...


def one_by_one(function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
    """The ``Spread`` of a single thread."""
    return (function(item) for item in items)


def lower_median(values: BigInts) -> int:
    """The lower one of the two in the middle; 0 of nothing."""
    return int(np.sort(values)[(values.size - 1) // 2]) if values.size else 0


def require_rows(value: object, field: str, *, columns: int | None = None) -> IntRows:
    """Give ``value`` back as rows of int16 or int32, or refuse it. Nothing is copied.

    Raises:
        UpdateRefused: another type, number of dimensions or number of columns.
    """
    if not isinstance(value, np.ndarray) or value.dtype not in (np.dtype(np.int16), np.dtype(np.int32)):
        found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise UpdateRefused(f"must be a numpy array of int16 or int32, not {found}", where=field)
    if value.ndim != 2:
        raise UpdateRefused(f"must have two dimensions, not shape {value.shape}", where=field)
    if columns is not None and value.shape[1] != columns:
        raise UpdateRefused(f"must have {columns} columns, not {value.shape[1]}", where=field)
    return value


def row_magnitude(rows: IntRows) -> int:
    """A bound on ``|x|`` over all rows: that of the type for int16, the largest found for int32."""
    return 1 << 15 if rows.dtype == np.int16 else largest_magnitude(rows)


def exact_products(rows: IntRows, columns: I64, *, spread: Spread = one_by_one) -> BigInts:
    """Give ``rows @ columns.T`` [m, k] exactly, for ``columns`` int64[k, P] of any magnitude."""
    count, width = columns.shape
    magnitude = row_magnitude(rows)
    largest = largest_magnitude(columns)
    bits = _limb_bits(magnitude, width)
    limbs = -(-largest.bit_length() // bits)
    if limbs <= 1:
        return tiled_products(rows, columns.astype(np.float64), spread=spread)
    parts = [(columns >> (bits * k)) & ((1 << bits) - 1) for k in range(limbs - 1)]
    parts.append(columns >> (bits * (limbs - 1)))
    found = tiled_products(rows, np.concatenate(parts).astype(np.float64), spread=spread)
    kind = np.int64 if magnitude * largest * width <= _INT64_MAX else object
    total = np.zeros((len(rows), count), kind)
    for k in range(limbs):
        total += found[:, k * count : (k + 1) * count].astype(kind) * (1 << (bits * k))
    return total


def _limb_bits(magnitude: int, width: int) -> int:
    """How large a limb may be: no partial sum of a tile leaves 53 bits, and no sum of tiles 63."""
    row_bits = magnitude.bit_length() - (magnitude & (magnitude - 1) == 0)
    return max(1, min(MANTISSA_BITS - TILE_BITS - row_bits, 62 - row_bits - width.bit_length()))


def tiled_products(rows: IntRows, columns: F64, *, spread: Spread = one_by_one) -> I64:
    """Give ``rows @ columns.T`` int64[m, k] for ``columns`` f64[k, P] that hold integers.

    Exact where ``2048 * max |row| * max |column| <= 2**53`` and ``max |row| * sum |column| < 2**63``, which
    the caller has seen to.
    """

    def product(task: _Task) -> I64:
        low, high = task[:2]
        found = np.zeros((len(columns), high - low), np.int64)
        for at, begin, tile in _tiles(rows, task):
            # This way round the library packs its operands fastest.
            part = columns[:, begin : begin + tile.shape[1]] @ tile.T
            found[:, at - low : at - low + len(tile)] += part.astype(np.int64)
        return found

    total = np.zeros((len(rows), len(columns)), np.int64)
    tasks = list(_tasks(rows))
    for (low, high, _left, _right), part in zip(tasks, spread(product, tasks), strict=True):
        total[low:high] += part.T
    return total


def exact_squares(rows: IntRows, *, spread: Spread = one_by_one) -> BigInts:
    """Give the squared norm of every row, [m], exactly."""
    magnitude = row_magnitude(rows)
    is_small = TILE_COLUMNS * magnitude * magnitude <= 1 << MANTISSA_BITS

    def squares(task: _Task) -> I64:
        low, high = task[:2]
        found = np.zeros((3, high - low), np.int64)
        for at, _begin, tile in _tiles(rows, task):
            here = slice(at - low, at - low + len(tile))
            if is_small:
                found[0, here] += np.einsum("ij,ij->i", tile, tile).astype(np.int64)
                continue
            upper = np.floor(tile / (1 << LIMB_BITS))
            lower = tile - upper * (1 << LIMB_BITS)
            for part, (left, right) in enumerate(((lower, lower), (lower, upper), (upper, upper))):
                found[part, here] += np.einsum("ij,ij->i", left, right).astype(np.int64)
        return found

    kind = np.int64 if magnitude * magnitude * rows.shape[1] <= _INT64_MAX else object
    total = np.zeros((3, len(rows)), kind)
    tasks = list(_tasks(rows))
    for task, part in zip(tasks, spread(squares, tasks), strict=True):
        total[:, task[0] : task[1]] += part
    # x = upper * 2**16 + lower: the square has three parts.
    whole: BigInts = total[0] + (total[1] * 2 << LIMB_BITS) + (total[2] << (2 * LIMB_BITS))
    return whole


def exact_weighted_sum(rows: IntRows, weights: I64, *, spread: Spread = one_by_one) -> I64:
    """Give ``weights @ rows`` int64[P] exactly, for weights int64[m] from 0.

    Raises:
        UpdateRefused: the sum could leave 63 bits.
    """
    magnitude, heaviest = row_magnitude(rows), max(1, largest_magnitude(weights))
    if magnitude * sum(weights.tolist()) > _INT64_MAX:
        raise UpdateRefused("the weighted sum could exceed 63 bits", where="updates")
    height = min(TILE_ROWS, (1 << MANTISSA_BITS) // max(1, magnitude * heaviest))
    factors = weights.astype(np.float64)

    def summed(task: _Task) -> I64:
        left, right = task[2:]
        found = np.zeros(right - left, np.int64)
        for at, begin, tile in _tiles(rows, task, height):
            part = factors[at : at + len(tile)] @ tile
            found[begin - left : begin - left + tile.shape[1]] += part.astype(np.int64)
        return found

    total = np.zeros(rows.shape[1], np.int64)
    tasks = list(_tasks(rows))
    for task, part in zip(tasks, spread(summed, tasks), strict=True):
        total[task[2] : task[3]] += part
    return total


_Task: TypeAlias = tuple[int, int, int, int]
"""First and last row, first and last column of a piece of work (the last ones excluded)."""


def _tasks(rows: IntRows) -> Iterator[_Task]:
    count, width = rows.shape
    across = min(max(width, 1), TASK_COLUMNS)
    down = max(TILE_ROWS, TASK_ELEMENTS // across // TILE_ROWS * TILE_ROWS)
    for low in range(0, count, down):
        for left in range(0, width, across):
            yield low, min(low + down, count), left, min(left + across, width)


def _tiles(rows: IntRows, task: _Task, height: int = TILE_ROWS) -> Iterator[tuple[int, int, F64]]:
    """Tiles of a task as doubles, with their first row and column; each lives until the next is asked for."""
    low, high, left, right = task
    store = np.empty(min(height, high - low) * min(TILE_COLUMNS, right - left))
    for at in range(low, high, height):
        end = min(at + height, high)
        for begin in range(left, right, TILE_COLUMNS):
            stop = min(begin + TILE_COLUMNS, right)
            tile = store[: (end - at) * (stop - begin)].reshape(end - at, stop - begin)
            np.copyto(tile, rows[at:end, begin:stop])
            yield at, begin, tile
