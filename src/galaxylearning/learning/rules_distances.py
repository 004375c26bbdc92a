"""Robust rules that compare updates by their distances: who is selected, and what share each one has.

All squared distances are exact integers. What iterates (Weiszfeld's steps, clipping around a centre) works on
shares and the m x m distances alone, in float64 and in a fixed order, never on the updates: so m^2 numbers
decide, the same on every machine, and a step of it costs nothing beside the distances.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import UpdateRefused
from galaxylearning.learning.exact import (
    BigInts,
    IntRows,
    Spread,
    exact_products,
    exact_squares,
    one_by_one,
    require_rows,
    row_magnitude,
)
from galaxylearning.learning.vectors import F64, I64

MOST_COMPARED = 4096
"""Rules that compare everybody with everybody take no more updates: 128 MiB of distances."""

WEISZFELD_STEPS = 32
CLIPPING_STEPS = 3
SMALLEST_DISTANCE = 1.0
"""Distances below one quantised unit count as one: no update gets endless weight."""


def squared_distances(rows: IntRows, *, spread: Spread = one_by_one) -> BigInts:
    """``|x_i - x_j|^2`` of every two rows, exactly, [m, m].

    Raises:
        UpdateRefused: more than ``MOST_COMPARED`` rows.
    """
    count = len(require_rows(rows, "updates"))
    if count > MOST_COMPARED:
        raise UpdateRefused(
            f"must be at most {MOST_COMPARED} for a rule that compares them, not {count}", where="updates"
        )
    squares = exact_squares(rows, spread=spread)
    products = exact_products(rows, rows.astype(np.int64), spread=spread)
    kind = np.int64 if squares.dtype == products.dtype == np.int64 and _fits(squares) else object
    wide, inner = squares.astype(kind), products.astype(kind)
    found: BigInts = wide[:, None] + wide[None, :] - 2 * inner
    return found


def _fits(squares: BigInts) -> bool:
    return not squares.size or int(squares.max()) < 1 << 60


def nearest(distances: BigInts, kept: int) -> npt.NDArray[np.intp]:
    """The ``kept`` rows closest to each row, itself among them, [m, kept]; of equals the earlier ones."""
    return np.argsort(distances, axis=1, kind="stable")[:, :kept]


def krum_scores(distances: BigInts, faulty: int) -> BigInts:
    """Sum of the squared distances from each row to the ``m - faulty - 2`` others closest to it, or to one.

    Source: Blanchard, El Mhamdi, Guerraoui & Stainer 2017 (NeurIPS), section 4.
    """
    neighbours = max(1, len(distances) - faulty - 2)
    found: BigInts = np.sort(distances, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
    return found


def krum_selection(distances: BigInts, faulty: int, kept: int) -> npt.NDArray[np.bool_]:
    """The ``kept`` rows of the smallest Krum scores, bool[m]; of equals the earlier ones."""
    selected = np.zeros(len(distances), np.bool_)
    selected[np.argsort(krum_scores(distances, faulty), kind="stable")[:kept]] = True
    return selected


def bulyan_selection(distances: BigInts, faulty: int) -> npt.NDArray[np.bool_]:
    """The ``m - 2 faulty`` rows that Krum gives one after the other, each without those before, bool[m].

    Source: El Mhamdi, Guerraoui & Rouault 2018 (arXiv 1802.07927), the first phase of Bulyan.
    """
    selected = np.zeros(len(distances), np.bool_)
    for _ in range(len(distances) - 2 * faulty):
        left = np.flatnonzero(~selected)
        scores = krum_scores(distances[np.ix_(left, left)], faulty) if left.size > 1 else np.zeros(1)
        selected[left[int(np.argmin(scores))]] = True
    return selected


def mixed(rows: IntRows, neighbours: npt.NDArray[np.intp]) -> I64:
    """Row ``i`` is the sum over ``neighbours[i]``, int64[m, P]: nearest-neighbour mixing, not divided.

    Source: Allouah et al. 2023 (arXiv 2302.01772), algorithm 2.
    """
    found = np.empty(rows.shape, np.int64)
    for i, near in enumerate(neighbours):
        found[i] = rows[near].sum(axis=0, dtype=np.int64)
    return found


def bucket_sums(rows: IntRows, order: I64, size: int) -> tuple[npt.NDArray[np.int32], I64]:
    """Means of ``size`` rows at a time in ``order``, times ``size``: int32[b, P], and each row's bucket.

    A last bucket of fewer rows has its mean times ``size`` as well; ``size`` is 2, so that this is exact.
    Source: Karimireddy, He & Jaggi 2022 (arXiv 2006.09365), algorithm 1.

    Raises:
        UpdateRefused: the sums could leave int32.
    """
    if row_magnitude(rows) * size > (1 << 31) - 1:
        raise UpdateRefused("are too large to be summed in buckets", where="updates")
    buckets = np.empty(len(rows), np.int64)
    buckets[order] = np.arange(len(rows)) // size
    count = -(-len(rows) // size)
    sums = np.empty((count, rows.shape[1]), np.int32)
    for bucket in range(count):
        members = np.flatnonzero(buckets == bucket)
        sums[bucket] = rows[members].sum(axis=0, dtype=np.int32) * (size // len(members))
    return sums, buckets


def geometric_median_shares(distances: BigInts, squares: BigInts) -> F64:
    """Shares f64[m] (their sum is 1) of the geometric median.

    They are those after ``WEISZFELD_STEPS`` of Weiszfeld's steps from zero. ``squares`` are the rows' own
    squared norms. Source: Weiszfeld 1937; Pillutla, Kakade & Harchaoui 2022 (arXiv 1912.13445), algorithm 2.
    """
    apart = distances.astype(np.float64)
    inverse = 1.0 / np.maximum(np.sqrt(squares.astype(np.float64)), SMALLEST_DISTANCE)
    shares = inverse / np.sum(inverse)
    for _ in range(WEISZFELD_STEPS - 1):
        inverse = 1.0 / np.maximum(_from_centre(apart, shares), SMALLEST_DISTANCE)
        shares = inverse / np.sum(inverse)
    return shares


def clipped_shares(distances: BigInts, squares: BigInts) -> F64:
    """Shares f64[m] of ``CLIPPING_STEPS`` steps of centred clipping from zero; what lacks to 1 is zero's own.

    The radius is the lower median of the norms.
    Source: Karimireddy, He & Jaggi 2021 (arXiv 2012.10333), section 4.
    """
    count = len(distances)
    apart = np.zeros((count + 1, count + 1))
    apart[:count, :count] = distances.astype(np.float64)
    apart[count, :count] = apart[:count, count] = squares.astype(np.float64)
    radius = float(np.sort(np.sqrt(squares.astype(np.float64)))[(count - 1) // 2])
    shares = np.zeros(count + 1)
    shares[count] = 1.0
    for _ in range(CLIPPING_STEPS):
        away = _from_centre(apart, shares)[:count]
        factors = np.minimum(1.0, radius / np.maximum(away, SMALLEST_DISTANCE * 1e-6)) / count
        shares *= 1.0 - np.sum(factors)
        shares[:count] += factors
    return shares[:count]


def _from_centre(apart: F64, shares: F64) -> F64:
    """Distance of every row from ``sum_j shares_j x_j``, f64[m]; the shares' sum is 1.

    ``|x_i - z|^2 = sum_j a_j D_ij - 1/2 sum_jk a_j a_k D_jk``: all that is needed of x are its distances.
    """
    means = np.sum(apart * shares, axis=1)
    within = np.sum(means * shares) / 2
    found: F64 = np.sqrt(np.maximum(means - within, 0.0))
    return found
