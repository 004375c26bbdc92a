"""From real updates to the integers that are summed, and the bytes that travel.

Clipping is enforced here: whatever training gave, no coordinate leaves ``max_abs`` and no sum leaves the
accumulator. Buffers (BatchNorm means) travel the same way, as a second integer vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning.vectors import (
    F32,
    F64,
    I16,
    I32,
    I64,
    largest_magnitude,
    require_integer,
    require_number,
    require_vector,
)

MIN_BITS = 2
MAX_BITS = 32
MAX_ABS = 1e30
MAX_COHORT = 1 << 32
MAX_WEIGHT = 1 << 20
MAX_SIZE = 1 << 31
CHUNK_ELEMENTS = 1 << 16
"""Rows are worked off in chunks of about this many numbers: half a MiB of doubles."""


def clip_norm(update: F32, max_norm: float) -> F32:
    """Scale ``update`` f32[P] down to an L2 norm of at most ``max_norm`` (a shorter one is returned as is).

    Raises:
        UpdateRefused: not a finite float32 vector.
        ConfigRefused: ``max_norm`` is not in (0, 1e30].
    """
    vector = require_vector(update, "update", np.float32)
    limit = require_number(max_norm, "max_norm", low=0, high=MAX_ABS, low_open=True)
    # Squares of float32 fit float64 without overflow: (3.4e38)**2 < 1e308, and 2**31 of them do too.
    wide = vector.astype(np.float64)
    norm = math.sqrt(float(np.sum(wide * wide)))
    return vector.copy() if norm <= limit else (wide * (limit / norm)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Uniform symmetric quantiser: ``max_abs`` maps to ``2**(bits-1) - 1``, anything beyond saturates.

    ``bits`` is 2..32, ``max_abs`` is in the unit of the vector, in (0, 1e30].

    Raises:
        ConfigRefused: naming the field and what is allowed.
    """

    bits: int
    max_abs: float

    def __post_init__(self) -> None:
        require_integer(self.bits, "bits", low=MIN_BITS, high=MAX_BITS)
        require_number(self.max_abs, "max_abs", low=0, high=MAX_ABS, low_open=True)
        if not math.isfinite(self.scale):
            raise ConfigRefused(f"max_abs must not be as small as {self.max_abs}")

    @property
    def levels(self) -> int:
        """The largest integer, ``2**(bits-1) - 1``."""
        return largest_level(self.bits)

    @property
    def scale(self) -> float:
        """Integers per unit of the vector."""
        return self.levels / self.max_abs

    def quantize(self, update: F32) -> I32:
        """Give int32[P]: ``x * scale`` rounded half to even, saturating at ``±levels``.

        Raises:
            UpdateRefused: not a finite float32 vector.
        """
        vector = require_vector(update, "update", np.float32)
        scaled = np.rint(vector.astype(np.float64) * self.scale)
        return np.clip(scaled, -self.levels, self.levels).astype(np.int32)

    def dequantize(self, ints: I32 | I64, divisor: int) -> F64:
        """Give f64[P]: ``ints / divisor / scale``; ``divisor`` is the total weight of a sum (>= 1).

        Raises:
            UpdateRefused: not an int32 or int64 vector, or a divisor below 1.
        """
        if isinstance(ints, np.ndarray) and ints.dtype == np.int32:
            wide = require_vector(ints, "ints", np.int32).astype(np.float64)
        else:
            wide = require_vector(ints, "ints", np.int64).astype(np.float64)
        by = require_integer(divisor, "divisor", low=1, high=MAX_COHORT * MAX_WEIGHT, error=UpdateRefused)
        return wide / np.float64(by) / np.float64(self.scale)


def largest_level(bits: int) -> int:
    """The largest integer of ``bits``-bit quantisation, ``2**(bits-1) - 1``."""
    return (1 << (bits - 1)) - 1


def row_type(bits: int) -> np.dtype[np.int16] | np.dtype[np.int32]:
    """The smallest type that holds ``bits``-bit integers: int16 up to 16 bits, else int32."""
    return np.dtype(np.int16) if bits <= 16 else np.dtype(np.int32)


def finite_rows(updates: F32) -> npt.NDArray[np.bool_]:
    """Which rows of ``updates`` f32[m, P] hold neither NaN nor infinity, bool[m]."""
    found = np.ones(len(updates), np.bool_)
    for here in _row_chunks(updates.shape):
        found[here] = np.isfinite(updates[here]).all(axis=1)
    return found


def quantise_rows(
    updates: F32, quantizer: Quantizer, max_norm: float | None, *, out: I16 | I32 | None = None
) -> I16 | I32:
    """Clip and quantise every row of ``updates`` f32[m, P] at once: int16[m, P] up to 16 bits, else int32.

    Bit for bit ``quantizer.quantize(clip_norm(row, max_norm))``; without ``max_norm`` (buffers) nothing is
    clipped. The result is written to ``out`` where one is given. Temporaries stay below a few MiB unless one
    row is longer than that.

    Raises:
        UpdateRefused: not a matrix of finite float32 (the first bad row is named), or ``out`` of another
            shape or type.
        ConfigRefused: ``max_norm`` is not in (0, 1e30].
    """
    if not isinstance(updates, np.ndarray) or updates.dtype != np.float32 or updates.ndim != 2:
        raise UpdateRefused("must be a numpy array of float32 with two dimensions", where="updates")
    limit = (
        None if max_norm is None else require_number(max_norm, "max_norm", low=0, high=MAX_ABS, low_open=True)
    )
    kind = row_type(quantizer.bits)
    result: I16 | I32 = np.empty(updates.shape, kind) if out is None else out
    if result.shape != updates.shape or result.dtype != kind:
        raise UpdateRefused(f"must be {kind} of shape {updates.shape}", where="out")
    store = np.empty((2, _chunk_rows(updates.shape), updates.shape[1]))
    for here in _row_chunks(updates.shape):
        wide, squares = store[:, : here.stop - here.start]
        np.copyto(wide, updates[here])
        norms = np.sqrt(np.sum(np.multiply(wide, wide, out=squares), axis=1))
        # A norm is finite exactly if its row is: squares of float32 cannot overflow the sum.
        if not bool(np.isfinite(norms).all()):
            row = here.start + int(np.argmin(np.isfinite(norms)))
            raise UpdateRefused("must be finite; it contains NaN or infinity", where=f"updates[{row}]")
        if limit is not None and bool((norms > limit).any()):
            # Through float32, as single updates are clipped; that leaves rows of factor 1 as they were.
            wide *= np.divide(limit, norms, out=np.ones(len(norms)), where=norms > limit)[:, None]
            np.copyto(wide, wide.astype(np.float32))
        wide *= quantizer.scale
        np.rint(wide, out=wide)
        np.clip(wide, -quantizer.levels, quantizer.levels, out=wide)
        result[here] = wide
    return result


def _chunk_rows(shape: tuple[int, ...]) -> int:
    return min(shape[0], max(1, CHUNK_ELEMENTS // max(1, shape[1])))


def _row_chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows of about ``CHUNK_ELEMENTS`` numbers each."""
    step = max(1, _chunk_rows(shape))
    return (slice(low, min(low + step, shape[0])) for low in range(0, shape[0], step))


def _wire_type(bits: int) -> np.dtype[np.int16] | np.dtype[np.int32]:
    require_integer(bits, "bits", low=MIN_BITS, high=MAX_BITS)
    return np.dtype("<i2") if bits <= 16 else np.dtype("<i4")


def encode_update(ints: I32, bits: int) -> bytes:
    """Give the wire form of int32[P]: little-endian int16 up to 16 bits, else int32; exactly P items.

    Raises:
        UpdateRefused: not an int32 vector, or a value beyond ``±(2**(bits-1) - 1)``.
        ConfigRefused: ``bits`` out of range.
    """
    kind = _wire_type(bits)
    vector = require_vector(ints, "update", np.int32)
    _check_levels(vector, bits)
    return vector.astype(kind).tobytes()


def decode_update(data: bytes, size: int, bits: int) -> I32:
    """Read int32[size] from its wire form. Nothing is allocated before the length is right.

    Raises:
        UpdateRefused: a wrong length, or a value beyond ``±(2**(bits-1) - 1)``.
        ConfigRefused: ``size`` or ``bits`` out of range.
    """
    kind = _wire_type(bits)
    count = require_integer(size, "size", low=0, high=MAX_SIZE)
    expected = count * kind.itemsize
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UpdateRefused(f"must be bytes, not {type(data).__name__}", where="update")
    view = memoryview(data)
    if view.nbytes != expected:
        raise UpdateRefused(f"must be {expected} bytes ({count} numbers), not {view.nbytes}", where="update")
    vector = np.frombuffer(view, dtype=kind).astype(np.int32)
    _check_levels(vector, bits)
    return vector


def _check_levels(vector: I32, bits: int) -> None:
    largest, allowed = largest_magnitude(vector), largest_level(bits)
    if largest > allowed:
        raise UpdateRefused(
            f"values must lie within ±{allowed} ({bits} bits), found ±{largest}", where="update"
        )


def check_range(bits: int, cohort_size: int, max_weight: int) -> None:
    """Check that no weighted sum of a whole cohort leaves a signed integer of 64 bits.

    Raises:
        ConfigRefused: naming the largest cohort that these bits and weights allow.
    """
    require_integer(bits, "bits", low=MIN_BITS, high=MAX_BITS)
    require_integer(cohort_size, "cohort_size", low=1, high=MAX_COHORT)
    require_integer(max_weight, "max_weight", low=1, high=MAX_WEIGHT)
    allowed = ((1 << 63) - 1) // (largest_level(bits) * max_weight)
    if cohort_size > allowed:
        raise ConfigRefused(
            f"cohort_size must be at most {allowed} with {bits} bits and weights up to {max_weight}, "
            f"not {cohort_size}"
        )
