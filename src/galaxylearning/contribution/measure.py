"""Units of contribution: clipped loss as an integer utility, and real values as integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import F64, require_integer, require_number, require_vector

UTILITY_FRACTION_BITS = 20
"""A utility is an integer number of 2**-20 units of the loss, summed over the samples.

The unit is the nat where the loss is a likelihood's (``messages.terms.loss_unit``)."""

VALUE_FRACTION_BITS = 40
"""A value is an integer number of 2**-40 units of the loss per sample."""

MAX_CLIP = 1e6
VALUE_LIMIT = 2**63 - 1
"""No value in a table is further from zero; that is 8,388,608 units of the loss per sample."""


@dataclass(frozen=True, slots=True)
class FixedPointUtility:
    """Utility of a model on the hidden set: minus its summed, clipped per-sample loss, as an exact integer.

    Every sample is rounded before the sum, so the sum does not depend on the order of the samples.
    """

    fraction_bits: int = UTILITY_FRACTION_BITS

    def __post_init__(self) -> None:
        require_integer(self.fraction_bits, "fraction_bits", low=0, high=30)

    def utility(self, per_sample_loss: F64, clip: float) -> int:
        """Give ``-sum(rint(min(max(loss, -clip), clip) * 2**fraction_bits))``; higher is better.

        ``per_sample_loss`` f64[n] and ``clip`` (in (0, 1e6]) are in units of the loss per sample. The
        result is in ``2**-fraction_bits`` of them over all samples. One sample moves it by ``2 * clip`` at
        most.

        Raises:
            DataRefused: no samples, another type or shape, or a loss that is not finite: a utility that
                cannot be measured is an error, never a number.
        """
        losses = require_vector(per_sample_loss, "per_sample_loss", np.float64, error=DataRefused)
        if losses.size == 0:
            raise DataRefused("must hold at least one sample", where="per_sample_loss")
        limit = require_number(clip, "clip", low=0, high=MAX_CLIP, low_open=True)
        scaled = np.rint(np.clip(losses, -limit, limit) * float(1 << self.fraction_bits))
        if losses.size * limit * (1 << self.fraction_bits) > VALUE_LIMIT:
            raise DataRefused(
                f"{losses.size} samples clipped at {limit} exceed 63 bits", where="per_sample_loss"
            )
        return -int(np.sum(scaled.astype(np.int64)))

    def to_loss(self, utility: int) -> float:
        """The utility in units of the loss (over all samples), for display."""
        return math.ldexp(utility, -self.fraction_bits)


def to_fixed(values: Sequence[float] | F64) -> tuple[int, ...]:
    """Turn values in units of the loss per sample into integers of 2**-40, half to even, then ``saturated``.

    Raises:
        DataRefused: a value is not finite.
    """
    most = 2.0 ** (63 - VALUE_FRACTION_BITS)
    fixed = []
    for index, value in enumerate(values):
        real = float(value)
        if not math.isfinite(real):
            raise DataRefused(f"must be finite, not {real}", where=f"values[{index}]")
        fixed.append(saturated(round(math.ldexp(min(max(real, -most), most), VALUE_FRACTION_BITS))))
    return tuple(fixed)


def saturated(value: int) -> int:
    """The nearest integer that a table can hold.

    Who posts a model too steep to be valued gets useless values, and costs no evaluator its stake.
    """
    return max(-VALUE_LIMIT, min(VALUE_LIMIT, value))


def from_fixed(value: int) -> float:
    """A fixed-point value in units of the loss per sample, for display."""
    return math.ldexp(value, -VALUE_FRACTION_BITS)
