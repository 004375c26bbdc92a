"""Exact samples of the discrete Gaussian, many at once: noise that protects privacy, drawn over integers.

Noise drawn in floating point has gaps that tell what it was added to. Here every decision is that of exact
arithmetic: a comparison is made in doubles only where their error cannot change it, and repeated to as many
digits as it takes otherwise. How long a draw takes depends on values that were rejected, and on nothing else.

Source: Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (arXiv 2004.00010),
algorithms 1 to 3; Mironov, "On significance of the least significant bits for differential privacy" (2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from typing import Final

import numpy as np
import numpy.typing as npt

from galaxylearning.crypto.secret_stream import U64, SecretStream
from galaxylearning.learning.vectors import F64, I64, require_integer

MAX_VARIANCE: Final = 1 << 52
BLOCK: Final = 1 << 18
"""So many candidates are drawn at a time: a few MiB."""

_MARGIN: Final = 2.0**-44
"""Doubles decide where the two sides differ by more; their error is below 2^-48."""
_TINY: Final = 2.0**-60
_CANDIDATES: Final = 2.2
"""Candidates drawn for each sample wanted; 48 % are accepted where the variance is large."""


def discrete_gaussian(count: int, variance: int, *, stream: SecretStream) -> I64:
    """``count`` independent integers, int64[count], with ``P[x] ~ exp(-x^2 / (2 variance))``, exactly.

    ``variance`` is 1 to 2^52 (below 1/(2 pi^2) off the variance of what is drawn from about 1 on).

    Raises:
        ValueError: ``count`` or ``variance`` out of range.
    """
    require_integer(count, "count", low=0, high=1 << 40, error=ValueError)
    require_integer(variance, "variance", low=1, high=MAX_VARIANCE, error=ValueError)
    found = np.empty(count, np.int64)
    done = 0
    while done < count:
        some = _accepted(min(BLOCK, int((count - done) * _CANDIDATES) + 16), variance, stream)
        some = some[: count - done]
        found[done : done + some.size] = some
        done += some.size
    return found


def _accepted(count: int, variance: int, stream: SecretStream) -> I64:
    """What is left of ``count`` candidates (algorithm 3)."""
    scale = math.isqrt(variance) + 1
    candidates = _laplace(count, scale, stream)
    # (|y| - variance / t)^2 / (2 variance), over integers up to the last division.
    distance = np.abs(candidates) * scale - variance
    gamma = (distance / scale) ** 2 / (2.0 * variance)

    def exactly(index: int) -> tuple[int, int]:
        return int(distance[index]) ** 2, 2 * variance * scale * scale

    kept: I64 = candidates[_happens(gamma, exactly, stream)]
    return kept


def _laplace(count: int, scale: int, stream: SecretStream) -> I64:
    """Of ``count`` candidates those accepted, with ``P[x] ~ exp(-|x| / scale)`` (algorithm 2)."""
    offset = stream.below(scale, count)
    kept = offset[_happens(offset / scale, lambda index: (int(offset[index]), scale), stream)]
    value = kept + scale * _geometric(stream.words(kept.size), stream)
    is_negative = (stream.words(value.size) & np.uint64(1)).astype(np.bool_)
    # Minus zero would make zero twice as likely.
    is_kept = ~(is_negative & (value == 0))
    signed: I64 = np.where(is_negative, -value, value)[is_kept]
    return signed


def _geometric(words: U64, stream: SecretStream) -> I64:
    """How often in a row something of probability 1/e happens: int64[m], from one word each."""
    uniform = words * 2.0**-64
    depth = -np.log(np.maximum(uniform, _TINY))
    near = (uniform < _TINY) | (np.abs(depth - np.rint(depth)) < _MARGIN * np.maximum(depth, 1.0))
    found = np.floor(np.where(near, 0.0, depth)).astype(np.int64)
    for index in np.flatnonzero(near).tolist():
        draw = _Uniform(int(words[index]), stream)
        while draw.is_below_exp(int(found[index]) + 1, 1):
            found[index] += 1
    return found


def _happens(
    gamma: F64, exactly: Callable[[int], tuple[int, int]], stream: SecretStream
) -> npt.NDArray[np.bool_]:
    """Which of events of probability ``exp(-gamma)`` happen, bool[m]; ``exactly`` gives one as a fraction."""
    words = stream.words(gamma.size)
    uniform, chance = words * 2.0**-64, np.exp(-gamma)
    found = uniform < chance
    for index in np.flatnonzero(np.abs(uniform - chance) < _MARGIN).tolist():
        found[index] = _Uniform(int(words[index]), stream).is_below_exp(*exactly(index))
    return found


class _Uniform:
    """A uniform number of [0, 1) of which more bits are drawn as they are needed."""

    def __init__(self, word: int, stream: SecretStream) -> None:
        self._value, self._words, self._stream = word, 1, stream

    def is_below_exp(self, numerator: int, denominator: int) -> bool:
        """Whether it is below ``exp(-numerator / denominator)``, decided exactly."""
        if numerator == 0:
            return True
        while True:
            digits = 24 * self._words + 12
            context = Context(prec=digits, Emin=-(10**9), Emax=10**9)
            gamma = context.divide(Decimal(numerator), Decimal(denominator))
            chance = context.exp(-gamma)
            slack = context.multiply(chance, context.scaleb(gamma + 10, 2 - digits))
            scale = Decimal(1 << (64 * self._words))
            wide = Context(prec=2 * digits)
            low, high = wide.divide(Decimal(self._value), scale), wide.divide(Decimal(self._value + 1), scale)
            if high <= wide.subtract(chance, slack):
                return True
            if low >= wide.add(chance, slack):
                return False
            self._value = (self._value << 64) | int(self._stream.words(1)[0])
            self._words += 1
