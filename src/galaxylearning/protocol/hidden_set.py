"""Rows as a model takes them, and the two halves of the requester's hidden test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import UpdateRefused

SCORE_BLOCKS = 8
"""The paying half of the hidden set is cut into this many blocks, whose spread gives the standard errors."""

MIN_TEST_ROWS = 8 * SCORE_BLOCKS


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows as a model takes them: one input array ``[n, ...]`` and the labels ``[n, ...]``."""

    inputs: NDArray[np.generic]
    labels: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """The rows with these indices."""
        return Rows(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True, slots=True, eq=False)
class HiddenSet:
    """The requester's hidden test set: one half gates updates, the other half pays for them."""

    gating: Rows
    paying: Rows
    everything: Rows

    @classmethod
    def split(cls, rows: Rows, *, seed: int) -> HiddenSet:
        """Cut ``rows`` in two halves by ``seed``, which the terms fix.

        Raises:
            UpdateRefused: fewer than ``MIN_TEST_ROWS`` rows.
        """
        if len(rows) < MIN_TEST_ROWS:
            raise UpdateRefused(
                f"{len(rows)} rows; at least {MIN_TEST_ROWS} are needed to gate and to pay", where="test set"
            )
        order = np.random.default_rng([seed, 0x5EED]).permutation(len(rows)).astype(np.int64)
        half = len(rows) // 2
        return cls(rows.take(np.sort(order[:half])), rows.take(np.sort(order[half:])), rows)
