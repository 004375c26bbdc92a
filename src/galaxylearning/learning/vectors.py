"""Admission of arrays: one-dimensional, of one exact type and size, finite; exact and stable products."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import ConfigRefused, GalaxyError, UpdateRefused

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
I16: TypeAlias = npt.NDArray[np.int16]
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]

ScalarT = TypeVar("ScalarT", bound=np.generic)

_LIMB_BITS = 16
_LIMB_MASK = (1 << _LIMB_BITS) - 1
_INT64_MAX = 2**63 - 1


def require_vector(
    value: object,
    field: str,
    dtype: type[ScalarT],
    *,
    size: int | None = None,
    error: type[GalaxyError] = UpdateRefused,
) -> npt.NDArray[ScalarT]:
    """Give ``value`` back as a contiguous vector of ``dtype``, or refuse it.

    Nothing is converted or broadcast: another type, another number of dimensions or another length is an
    error, and so is any NaN or infinity.

    Raises:
        error: naming ``field`` and what is allowed.
    """
    if not isinstance(value, np.ndarray):
        raise error(
            f"must be a numpy array of {np.dtype(dtype).name}, not {type(value).__name__}", where=field
        )
    if value.dtype != np.dtype(dtype):
        raise error(f"must have type {np.dtype(dtype).name}, not {value.dtype}", where=field)
    if value.ndim != 1:
        raise error(f"must have one dimension, not shape {value.shape}", where=field)
    if size is not None and value.size != size:
        raise error(f"must have {size} elements, not {value.size}", where=field)
    if value.dtype.kind == "f" and not bool(np.isfinite(value).all()):
        raise error("must be finite; it contains NaN or infinity", where=field)
    return np.ascontiguousarray(value)


def require_number(
    value: Any,
    field: str,
    *,
    low: float,
    high: float,
    low_open: bool = False,
    high_open: bool = False,
    error: type[Exception] = ConfigRefused,
) -> float:
    """Give a real number of a range back as ``float``; bool, NaN and anything else is refused."""
    allowed = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise error(f"{field} must be a number in {allowed}, not {type(value).__name__}")
    below = value <= low if low_open else value < low
    above = value >= high if high_open else value > high
    if below or above or value != value:
        raise error(f"{field} must be in {allowed}, not {value}")
    return float(value)


def require_integer(
    value: Any, field: str, *, low: int, high: int, error: type[Exception] = ConfigRefused
) -> int:
    """Give an integer of ``low..high`` back as ``int``; bool and anything else is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise error(f"{field} must be an integer from {low} to {high}, not {type(value).__name__}")
    if not low <= value <= high:
        raise error(f"{field} must be from {low} to {high}, not {value}")
    return int(value)


def largest_magnitude(values: I16 | I32 | I64) -> int:
    """``max |x|`` as an exact ``int`` (also for the most negative value); 0 for an empty array."""
    return 0 if values.size == 0 else max(abs(int(values.max())), abs(int(values.min())))


def exact_dot(left: I32 | I64, right: I32 | I64) -> int:
    """``<left, right>`` as an exact ``int``, whatever the magnitudes: equal on every machine.

    Products that fit 63 bits are summed directly, others by 16-bit limbs whose sums cannot overflow below
    2**31 elements.
    """
    a, b = left.astype(np.int64, copy=False), right.astype(np.int64, copy=False)
    if largest_magnitude(a) * largest_magnitude(b) * a.size <= _INT64_MAX:
        return int(np.sum(a * b))
    total = 0
    for i, a_limb in enumerate(_limbs(a)):
        for j, b_limb in enumerate(_limbs(b)):
            total += int(np.sum(a_limb * b_limb)) << (_LIMB_BITS * (i + j))
    return total


def _limbs(values: I64) -> list[I64]:
    """Split into four limbs, ``x = sum(limb[k] * 2**(16 k))``, all but the last one non-negative."""
    return [(values >> (_LIMB_BITS * k)) & _LIMB_MASK for k in range(3)] + [values >> (_LIMB_BITS * 3)]


def stable_dot(left: F64, right: F64) -> float:
    """``<left, right>`` without BLAS: products, then numpy's pairwise sum, whose order is fixed."""
    return float(np.sum(left * right))
