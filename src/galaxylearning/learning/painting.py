"""Inputs changed where honest rows never are: painted over in part, or with their light and dark turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import F32, F64

Mask: TypeAlias = npt.NDArray[np.bool_]

TURNED: Final = 0.2
"""So many of the rows are mapped to other ends of the range, all others painted over in part."""

EXTREME: Final = 0.7
"""So many painted parts have the smallest or the largest value, all others one between them."""

LARGEST_PATCH: Final = 0.7
WIDEST_BORDER: Final = 0.25
MOST_FEATURES: Final = 0.9
"""Parts of a side, of a side, and of a row's features."""


@dataclass(frozen=True, slots=True, eq=False)
class Painter:
    """Paints rows f32[n, ...] whose values lie between ``low`` and ``high``, both f32[1, ...].

    Of plain rows, f32[n, features], any features are painted over. All others are taken for images,
    f32[n, ..., height, width]: of them patches (Zhong et al. 2017, arXiv 1708.04896) or borders are. Each
    feature, or channel of images with channels, has a range of its own, but none smaller than what is usual
    among them: what never changes in honest rows may in others. Some rows are mapped to other ends of the
    range instead, half of those to the reverse ones: their negative (Cubuk et al. 2019, arXiv 1909.13719).
    """

    low: F32
    high: F32

    @classmethod
    def of(cls, inputs: npt.NDArray[Any]) -> Painter:
        """A painter with the ranges of these rows.

        Raises:
            DataRefused: they hold no numbers that could be painted, as the numbers of words, none that are
                finite and not too far apart, or none at all.
        """
        if inputs.dtype != np.float32 or inputs.ndim < 2 or not inputs.size:
            raise DataRefused(
                f"{inputs.dtype} of shape {inputs.shape}; rows of float32 numbers allowed", where="inputs"
            )
        axes = (0,) if inputs.ndim == 2 else (0, -2, -1)
        low, high = inputs.min(axis=axes, keepdims=True), inputs.max(axis=axes, keepdims=True)
        low = np.minimum(low, np.quantile(low, 0.5, method="lower"))
        high = np.maximum(high, np.quantile(high, 0.5, method="lower"))
        with np.errstate(over="ignore", invalid="ignore"):
            if not bool(np.isfinite(high - low).all()):
                raise DataRefused("must be finite, and less than 3e38 apart", where="inputs")
        return cls(low.astype(np.float32), high.astype(np.float32))

    def __call__(self, inputs: F32, rng: np.random.Generator) -> F32:
        """A changed copy of rows f32[n, ...], each in a way of its own."""
        n = len(inputs)
        wide = (n,) + (1,) * (inputs.ndim - 1)
        mask = _features(inputs.shape, rng) if inputs.ndim == 2 else _patches(inputs.shape, rng)
        span = self.high - self.low
        # One value for a row's whole part, or one for each of its channels or features.
        own = _values((n, *self.low.shape[1:]), rng)
        values = np.where(rng.random(wide) < 0.5, _values(wide, rng), own)
        painted = np.where(mask, self.low + span * values, inputs)
        first, last = rng.random((2, *wide))
        is_negative = rng.random(wide) < 0.5
        first, last = np.where(is_negative, 1.0, first), np.where(is_negative, 0.0, last)
        shares = (inputs - self.low) / np.where(span > 0, span, 1)
        turned = self.low + span * (first + (last - first) * shares)
        found: F32 = np.where(rng.random(wide) < TURNED, turned, painted).astype(np.float32)
        return found


def _values(shape: tuple[int, ...], rng: np.random.Generator) -> F64:
    """Shares of a range, f64 of this shape: mostly its ends."""
    return np.where(rng.random(shape) < EXTREME, rng.integers(0, 2, shape), rng.random(shape))


def _patches(shape: tuple[int, ...], rng: np.random.Generator) -> Mask:
    """What is painted over of images [n, ..., height, width]: a patch of each, or all around one."""
    n, height, width = shape[0], *shape[-2:]
    is_border = rng.random(n) < 0.5
    rows, columns = (_stretch(side, is_border, rng) for side in (height, width))
    mask = (rows[:, :, None] & columns[:, None]) ^ is_border[:, None, None]
    return mask.reshape(n, *(1,) * (len(shape) - 3), height, width)


def _stretch(side: int, is_border: Mask, rng: np.random.Generator) -> Mask:
    """Where, bool[n, side], a patch lies along a side, or what a border leaves free."""
    n = len(is_border)
    size = rng.integers(1, max(1, int(LARGEST_PATCH * side)) + 1, n)
    start = rng.integers(0, side - size + 1)
    widest = max(int(WIDEST_BORDER * side), int(side > 2))
    before, after = rng.integers(0, widest + 1, (2, n))
    first, end = np.where(is_border, before, start), np.where(is_border, side - after, start + size)
    places = np.arange(side)
    return (places >= first[:, None]) & (places < end[:, None])


def _features(shape: tuple[int, ...], rng: np.random.Generator) -> Mask:
    """What is painted over of rows [n, features]: any, few of some rows and most of others."""
    mask: Mask = rng.random(shape) < MOST_FEATURES * rng.random((shape[0], 1))
    return mask
