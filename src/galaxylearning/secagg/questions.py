"""What is asked of every update: products with public integer vectors, in the clear and of masked updates.

A question is fixed after the updates are submitted. Its digest names it, so that nobody answers two different
questions in one phase. Nothing here knows who may ask what; see :mod:`galaxylearning.secagg.member`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from galaxylearning.crypto.ring import BLOCK_ROWS, DEGREE, PrimeField, Ring, public_rows
from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning.exact import IntRows, Spread, exact_products, one_by_one, require_rows
from galaxylearning.learning.quantise import MAX_SIZE
from galaxylearning.learning.vectors import (
    F64,
    I64,
    exact_dot,
    largest_magnitude,
    require_number,
    require_vector,
)
from galaxylearning.units import Digest

I8 = npt.NDArray[np.int8]

MAX_COORDINATE: Final = 1 << 20
MAX_COUNT: Final = 1 << 12
SEED_BYTES: Final = 32

_DIGEST_LABEL: Final = "galaxylearning 2026 secagg v1 question digest"
_SIGNS_LABEL: Final = "galaxylearning 2026 secagg v1 projection signs"
_TILE_ELEMENTS: Final = 1 << 17
_TASK_ELEMENTS: Final = 1 << 22
_SCALE_BITS: Final = 12
_ATTEMPTS: Final = 256


class Questions(Protocol):
    """``count`` products asked of every update of ``parameters`` numbers."""

    @property
    def count(self) -> int:
        """How many products, from 1."""
        ...

    @property
    def parameters(self) -> int:
        """P, the length of an update."""
        ...

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the questions' canonical form."""
        ...

    def products(self, rows: IntRows, *, spread: Spread = one_by_one) -> I64:
        """The exact answers int64[m, count] for updates in the clear, ``rows`` [m, P].

        Raises:
            UpdateRefused: not int16 or int32, not P columns, or a product that could exceed 63 bits.
        """
        ...

    @property
    def norms(self) -> F64:
        """The vectors' L2 norms over all coefficients of the rows, f64[count]: how much noise they gather."""
        ...

    @property
    def dense_square(self) -> int:
        """The largest squared norm of a vector that somebody chose (not by chance); 0 where none is."""
        ...

    @property
    def is_pointed(self) -> bool:
        """Whether a vector that somebody chose has more than half of its squared norm in one coordinate."""
        ...

    def fold_public(self, field: PrimeField, rows: slice, values: F64, total: F64) -> None:
        """Add to ``total`` f64[count, N] what these ``rows`` of the public polynomials give.

        ``values`` [rows, N] are theirs modulo the field's prime, as values; all rows go by once, in order.
        """
        ...

    def finish_public(self, field: PrimeField, total: F64) -> F64:
        """Make of the whole total the polynomials h, with ``<vector, A s> = <h, s>``: f64[count, N]."""
        ...

    def masked_products(self, field: PrimeField, rows: slice, block: F64) -> F64:
        """The part f64[count] that ``block`` [rows, N], residues 0..p-1 of a masked update, adds; centred."""
        ...


def ring_rows(parameters: int) -> int:
    """How many polynomials hold ``parameters`` numbers; the last one is filled up with zeros."""
    return -(-parameters // DEGREE)


def _check_sizes(count: int, parameters: int) -> None:
    if type(count) is not int or not 1 <= count <= MAX_COUNT:
        raise ConfigRefused(f"must be an integer from 1 to {MAX_COUNT}, not {count!r}", where="count")
    if type(parameters) is not int or not 1 <= parameters <= MAX_SIZE:
        raise ConfigRefused(
            f"must be an integer from 1 to {MAX_SIZE}, not {parameters!r}", where="parameters"
        )


def _digest(kind: bytes, count: int, parameters: int, body: bytes | memoryview) -> Digest:
    hasher = blake3(derive_key_context=_DIGEST_LABEL)
    hasher.update(struct.pack(">8sQQ", kind, count, parameters))
    hasher.update(body)
    return Digest(hasher.digest())


@dataclass(frozen=True, eq=False)
class Dense:
    """Products with given vectors, int64[k, P], each coordinate at most 2**20 in magnitude.

    Raises:
        ConfigRefused: another type or shape, or a coordinate out of range.
    """

    vectors: I64

    def __post_init__(self) -> None:
        vectors = self.vectors
        if not isinstance(vectors, np.ndarray) or vectors.dtype != np.int64 or vectors.ndim != 2:
            raise ConfigRefused("must be a numpy array of int64 with two dimensions", where="vectors")
        _check_sizes(len(vectors), vectors.shape[1])
        if largest_magnitude(vectors) > MAX_COORDINATE:
            raise ConfigRefused(f"coordinates must lie within ±{MAX_COORDINATE}", where="vectors")

    @property
    def count(self) -> int:
        """How many vectors."""
        return len(self.vectors)

    @property
    def parameters(self) -> int:
        """P."""
        return int(self.vectors.shape[1])

    @cached_property
    def digest(self) -> Digest:
        """BLAKE3 of the sizes and the vectors, as little-endian int64."""
        body = np.ascontiguousarray(self.vectors, dtype="<i8")
        return _digest(b"dense", self.count, self.parameters, body.data.cast("B"))

    def products(self, rows: IntRows, *, spread: Spread = one_by_one) -> I64:
        """See :meth:`Questions.products`."""
        rows = require_rows(rows, "updates", columns=self.parameters)
        found = exact_products(rows, self.vectors, spread=spread)
        try:
            return found.astype(np.int64, copy=False)
        except OverflowError as error:
            raise UpdateRefused("a product exceeds 63 bits", where="updates") from error

    @cached_property
    def norms(self) -> F64:
        """See :meth:`Questions.norms`."""
        return np.sqrt(np.array(self._squares, np.float64))

    @property
    def dense_square(self) -> int:
        """See :meth:`Questions.dense_square`."""
        return max(self._squares)

    @property
    def is_pointed(self) -> bool:
        """See :meth:`Questions.is_pointed`."""
        peaks = (largest_magnitude(vector) ** 2 for vector in self.vectors)
        return any(2 * peak > square > 0 for peak, square in zip(peaks, self._squares, strict=True))

    @cached_property
    def _squares(self) -> list[int]:
        return [exact_dot(vector, vector) for vector in self.vectors]

    @cached_property
    def _polynomials(self) -> F64:
        """The vectors as polynomials f64[count, rows, N], filled up with zeros."""
        filled = np.zeros((self.count, ring_rows(self.parameters) * DEGREE))
        filled[:, : self.parameters] = self.vectors
        return filled.reshape(self.count, -1, DEGREE)

    def fold_public(self, field: PrimeField, rows: slice, values: F64, total: F64) -> None:
        """See :meth:`Questions.fold_public`."""
        # Reversed values are those of the adjoint, a(1/X): <g, a s> = <a(1/X) g, s>.
        adjoint = values[:, ::-1]
        for row, vector in zip(total, self._polynomials[:, rows], strict=True):
            found = field.to_values(field.centred(vector))
            row += field.centred(found * adjoint).sum(axis=0)
            field.centred(row, out=row)

    def finish_public(self, field: PrimeField, total: F64) -> F64:
        """See :meth:`Questions.finish_public`."""
        return field.to_coefficients(total)

    def masked_products(self, field: PrimeField, rows: slice, block: F64) -> F64:
        """See :meth:`Questions.masked_products`.

        Exact for vectors of norm up to 2**20: by Cauchy and Schwarz no partial sum exceeds
        ``2**20 * 2**24 * sqrt(2**16) = 2**52``.
        """
        return field.centred(self._polynomials[:, rows].reshape(self.count, -1) @ block.reshape(-1))


@dataclass(frozen=True)
class Signs:
    """Random projections: products with ``count`` vectors of +-1 that everybody expands from a public seed.

    A vector is of rank one over the ring's rows: the sign of coefficient j of row r is ``a[r] * b[j]``, with
    a and b independent and uniform. So ``E <rho, x>**2 = |x|**2`` for every x, and all of a projection's
    polynomial is one combination of rows and one product. The price are the tails of a product of two sums
    of signs: ``P(|<rho, x>| > z |x|)`` falls like ``exp(-z)``, not ``exp(-z*z/2)``.

    Raises:
        ConfigRefused: a size out of range, or a seed that is not 32 bytes.
    """

    count: int
    parameters: int
    seed: bytes

    def __post_init__(self) -> None:
        _check_sizes(self.count, self.parameters)
        if not isinstance(self.seed, bytes) or len(self.seed) != SEED_BYTES:
            raise ConfigRefused(f"must be {SEED_BYTES} bytes", where="seed")

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the sizes and the seed."""
        return _digest(b"signs", self.count, self.parameters, self.seed)

    @cached_property
    def signs(self) -> tuple[I8, I8]:
        """``a`` int8[count, rows] and ``b`` int8[count, 2048], each +1 or -1."""
        rows = ring_rows(self.parameters)
        row_bytes, column_bytes = -(-rows // 8), DEGREE // 8
        source = blake3(self.seed, derive_key_context=_SIGNS_LABEL)
        drawn = source.digest(length=self.count * (row_bytes + column_bytes))
        bits = np.unpackbits(
            np.frombuffer(drawn, np.uint8).reshape(self.count, -1), axis=1, bitorder="little"
        ).astype(np.int8)
        signs = 1 - 2 * bits
        return signs[:, :rows], signs[:, 8 * row_bytes :]

    def products(self, rows: IntRows, *, spread: Spread = one_by_one) -> I64:
        """See :meth:`Questions.products`."""
        rows = require_rows(rows, "updates", columns=self.parameters)
        # 2,048 numbers below 2**31 add up to less than 2**42, so doubles are exact; rows add as int64.
        a, b = self.signs[0].T.astype(np.int64), np.ascontiguousarray(self.signs[1].T, np.float64)
        whole = self.parameters // DEGREE * DEGREE

        def product(part: IntRows) -> I64:
            found = np.zeros((len(part), self.count), np.int64)
            for owners, ring, tile in _tiles(part[:, :whole].reshape(len(part), -1, DEGREE)):
                inner = (tile.reshape(-1, DEGREE) @ b).astype(np.int64)
                found[owners] += np.einsum("mrk,rk->mk", inner.reshape(*tile.shape[:2], -1), a[ring])
            if whole < self.parameters:
                rest = part[:, whole:].astype(np.float64) @ b[: self.parameters - whole]
                found += rest.astype(np.int64) * a[-1]
            return found

        step = max(1, _TASK_ELEMENTS // self.parameters)
        parts = [rows[at : at + step] for at in range(0, len(rows), step)]
        return np.concatenate([np.zeros((0, self.count), np.int64), *spread(product, parts)])

    @property
    def norms(self) -> F64:
        """See :meth:`Questions.norms`: what fills the last row up has signs, too."""
        return np.full(self.count, math.sqrt(ring_rows(self.parameters) * DEGREE))

    @property
    def dense_square(self) -> int:
        """Nothing: chance chose the signs."""
        return 0

    @property
    def is_pointed(self) -> bool:
        """Never: all coordinates weigh the same."""
        return False

    @cached_property
    def _factors(self) -> tuple[F64, F64]:
        """``a`` f64[count, rows] and ``b`` f64[count, N]."""
        return self.signs[0].astype(np.float64), self.signs[1].astype(np.float64)

    def fold_public(self, field: PrimeField, rows: slice, values: F64, total: F64) -> None:
        """See :meth:`Questions.fold_public`."""
        total += self._factors[0][:, rows] @ values
        field.centred(total, out=total)

    def finish_public(self, field: PrimeField, total: F64) -> F64:
        """See :meth:`Questions.finish_public`."""
        columns = field.to_values(self._factors[1])
        return field.to_coefficients(field.centred(total[:, ::-1] * columns))

    def masked_products(self, field: PrimeField, rows: slice, block: F64) -> F64:
        """See :meth:`Questions.masked_products`; all of a row's 2,048 coefficients have signs."""
        a, b = self._factors
        inner = block @ b.T
        # At most 32 * 2,048 residues below 2**24.
        return field.centred((inner * a[:, rows].T).sum(axis=0))


def _tiles(rows: npt.NDArray[np.int16] | npt.NDArray[np.int32]) -> Iterator[tuple[slice, slice, F64]]:
    """Cut [m, rows, 2048] into tiles of doubles that fit the cache, with their slices of updates and rows."""
    count, height, _ = rows.shape
    across = max(1, min(height, _TILE_ELEMENTS // DEGREE))
    down = max(1, _TILE_ELEMENTS // DEGREE // across)
    for low in range(0, count, down):
        for top in range(0, height, across):
            owners, ring = slice(low, low + down), slice(top, min(top + across, height))
            yield owners, ring, rows[owners, ring].astype(np.float64)


@dataclass(frozen=True)
class Joined:
    """Several questions asked as one, answered in their order.

    Raises:
        ConfigRefused: no part, parts for updates of different lengths, or too many products.
    """

    parts: tuple[Questions, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigRefused("must be at least one", where="parts")
        if len({part.parameters for part in self.parts}) > 1:
            raise ConfigRefused("must all be for updates of one length", where="parts")
        _check_sizes(self.count, self.parameters)

    @property
    def count(self) -> int:
        """All parts' products together."""
        return sum(part.count for part in self.parts)

    @property
    def parameters(self) -> int:
        """P."""
        return self.parts[0].parameters

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the parts' digests, in order."""
        body = b"".join(part.digest for part in self.parts)
        return _digest(b"joined", self.count, self.parameters, body)

    def products(self, rows: IntRows, *, spread: Spread = one_by_one) -> I64:
        """See :meth:`Questions.products`."""
        return np.concatenate([part.products(rows, spread=spread) for part in self.parts], axis=1)

    @property
    def norms(self) -> F64:
        """See :meth:`Questions.norms`."""
        return np.concatenate([part.norms for part in self.parts])

    @property
    def dense_square(self) -> int:
        """See :meth:`Questions.dense_square`."""
        return max(part.dense_square for part in self.parts)

    @property
    def is_pointed(self) -> bool:
        """See :meth:`Questions.is_pointed`."""
        return any(part.is_pointed for part in self.parts)

    def _split(self, total: F64) -> Iterator[tuple[Questions, F64]]:
        at = 0
        for part in self.parts:
            yield part, total[at : at + part.count]
            at += part.count

    def fold_public(self, field: PrimeField, rows: slice, values: F64, total: F64) -> None:
        """See :meth:`Questions.fold_public`."""
        for part, here in self._split(total):
            part.fold_public(field, rows, values, here)

    def finish_public(self, field: PrimeField, total: F64) -> F64:
        """See :meth:`Questions.finish_public`."""
        return np.concatenate([part.finish_public(field, here) for part, here in self._split(total)])

    def masked_products(self, field: PrimeField, rows: slice, block: F64) -> F64:
        """See :meth:`Questions.masked_products`."""
        return np.concatenate([part.masked_products(field, rows, block) for part in self.parts])


def row_blocks(parameters: int) -> Iterator[tuple[int, slice]]:
    """The blocks of rows, numbered from 0, that everything is worked off in."""
    rows = ring_rows(parameters)
    for block, low in enumerate(range(0, rows, BLOCK_ROWS)):
        yield block, slice(low, min(low + BLOCK_ROWS, rows))


def question_polynomials(ring: Ring, seed: bytes, questions: Questions) -> F64:
    """The polynomials h, f64[count, 2, N] (centred residues), with ``<vector, A s> = <h, s>`` for every s.

    Computed once a round from the round's public ``seed``, by every member and by who checks a
    share that is shown.
    """
    found = np.zeros((questions.count, 2, DEGREE))
    for index, field in enumerate(ring.fields):
        total = np.zeros((questions.count, DEGREE))
        for block, rows in row_blocks(questions.parameters):
            values = public_rows(ring, seed, index, block, rows.stop - rows.start)
            questions.fold_public(field, rows, values, total)
        found[:, index] = questions.finish_public(field, total)
    return found


def quantise_functional(g: F64, *, norm: float, rng: np.random.Generator) -> tuple[I64, float]:
    """Give integers int64[P] and a scale, with ``g`` close to ``integers * scale``.

    Rounding is stochastic and without bias: the expectation of a coordinate is that of ``g / scale``. The
    integers' L2 norm is at most ``norm`` and no coordinate exceeds 2**20. Everybody who has the same ``g``
    and an ``rng`` from the same seed gets the same integers. A long vector with a small ``norm`` becomes a
    sparse one of signs.  A zero vector gives zeros and scale 0.0.

    Raises:
        UpdateRefused: not a finite float64 vector.
        ConfigRefused: ``norm`` is not in [1, 2**40].
    """
    vector = require_vector(g, "functional", np.float64)
    limit = require_number(norm, "norm", low=1, high=float(1 << 40))
    largest = float(np.max(np.abs(vector), initial=0.0))
    if largest == 0.0:
        return np.zeros(vector.size, np.int64), 0.0
    # Through the largest coordinate, so that no square leaves the range of doubles.
    unit = vector / largest
    factor = _largest_factor(unit, limit)
    for _ in range(_ATTEMPTS):
        factor = _few_digits(min(factor, float(MAX_COORDINATE)))
        scaled = unit * factor
        low = np.floor(scaled)
        # Not above the ceiling: a coordinate that is an integer stays what it is.
        rounded = low + (rng.random(vector.size) < scaled - low)
        if float(np.dot(rounded, rounded)) <= limit * limit:
            return rounded.astype(np.int64), largest / factor
        factor *= 0.9
    return np.zeros(vector.size, np.int64), largest / factor


def _largest_factor(unit: F64, limit: float) -> float:
    """A factor for which the rounded vector's squared norm stays below ``limit**2``, almost surely.

    Rounding y adds at most ``min(1/4, |y|)`` to the expected square of a coordinate; the sum of squares has a
    standard deviation of about ``limit`` or less.
    """
    squares, absolutes = float(np.sum(unit * unit)), float(np.sum(np.abs(unit)))
    budget = max(limit * limit - 8.0 * limit, limit * limit / 4.0)
    dense = math.sqrt(max(0.0, budget - unit.size / 4.0) / squares)
    sparse = 2.0 * budget / (absolutes + math.sqrt(absolutes * absolutes + 4.0 * squares * budget))
    return max(dense, sparse)


def _few_digits(factor: float) -> float:
    """Cut to 12 bits: sums may differ in the last bit between machines, the factor must not."""
    mantissa, exponent = math.frexp(factor)
    return math.ldexp(math.floor(mantissa * (1 << _SCALE_BITS)), exponent - _SCALE_BITS)
