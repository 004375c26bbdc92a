"""What earlier rounds say of who sends an update: how far it went the hidden set's way beside its cohort.

One round's cosine says little once the model fits the hidden set: much of the step on it is then chance, and
so is everybody's cosine to it. Over rounds the noise averages out. A backdoor that is hidden in one round
goes along with the hidden set less than its cohort in every one of them. Only integers decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from galaxylearning.learning.exact import lower_median
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.units import COSINE_UNIT

FEWEST_ROUNDS: Final = 4
"""So many rounds, the present one among them, must have seen updates of a data owner to judge it by them."""

NO_WEIGHT_AT, FULL_WEIGHT_AT = 5, 8
"""Tenths of the median's cosines at, or below, which nothing counts; and from which on all of it does."""


@dataclass(slots=True)
class Standings:
    """The sums of cosines of everybody who sent an update, by name, and of the medians of the same rounds."""

    _sums: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, names: Iterable[str], cosines: F64) -> None:
        """Take a round that is over: everybody whose update was read, and its cosine f64[m] in [-1, 1]."""
        units = to_units(cosines)
        median = lower_median(units)
        for name, own in zip(names, units.tolist(), strict=True):
            self._sums[name] = _with(self._sums.get(name, (0, 0, 0)), own, median)

    def lowered(self, names: Sequence[str], cosines: F64, weights: I64) -> I64:
        """The gate's weights int64[m] of a round, lowered where somebody stands badly; 0: does not count.

        Of the cosines so far, with this round's f64[m], let r be the sum of a data owner's over the sum of
        the medians of the same rounds. The factor is ``(r - 0.5) / 0.3``, at least 0 and at most 1, and the
        weight rounded half up. Nobody is judged before ``FEWEST_ROUNDS``, nor by medians whose sum is not
        positive.
        """
        units = to_units(cosines)
        median = lower_median(units)
        found = weights.copy()
        for place in np.flatnonzero(weights).tolist():
            before = self._sums.get(names[place], (0, 0, 0))
            own, medians, rounds = _with(before, int(units[place]), median)
            if rounds >= FEWEST_ROUNDS and medians > 0:
                whole = (FULL_WEIGHT_AT - NO_WEIGHT_AT) * medians
                part = min(whole, max(0, 10 * own - NO_WEIGHT_AT * medians))
                found[place] = (2 * int(weights[place]) * part + whole) // (2 * whole)
        return found


def to_units(cosines: F64) -> I64:
    """Cosines f64[m] as integers, ``COSINE_UNIT`` to the one; what is beyond [-1, 1] counts as its end."""
    units: I64 = np.rint(np.clip(cosines, -1.0, 1.0) * COSINE_UNIT).astype(np.int64)
    return units


def _with(sums: tuple[int, int, int], own: int, median: int) -> tuple[int, int, int]:
    return sums[0] + own, sums[1] + median, sums[2] + 1
