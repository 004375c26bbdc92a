"""Long updates, shortened for comparison: random projections that keep their products, on average.

Every coordinate is added to one of a fixed number of buckets with a random sign (a count sketch). All names
of a job get the same buckets and signs, drawn from its seed. Source: Charikar, Chen & Farach-Colton 2002.
"""

from __future__ import annotations

import numpy as np

from galaxylearning.learning.exact import IntRows
from galaxylearning.learning.vectors import F32

SKETCH_SIZE = 4096
"""Longer updates are compared for twins by this many random projections, drawn from the terms' seed."""


def sketch_rows(rows: IntRows, size: int, *, seed: int) -> F32:
    """Give f32[m, size] of ``rows`` [m, P]: sums of integers, rounded once, the same on every machine."""
    rng = np.random.default_rng([seed, 0x7715])
    bucket = rng.integers(0, size, rows.shape[1])
    sign = rng.choice(np.array([-1.0, 1.0]), rows.shape[1])
    found = np.empty((len(rows), size), np.float32)
    for row, short in zip(rows, found, strict=True):
        short[:] = np.bincount(bucket, weights=row * sign, minlength=size)
    return found
