"""The ring R_q = Z_q[X]/(X^2048 + 1), q a product of two primes: arithmetic in double precision, and bytes.

Residues modulo a prime p below 2**24 are doubles that hold integers. A double is exact up to 2**53, so
products of residues, and sums of 64 of them, are exact whatever the order of addition: the number-theoretic
transform becomes two matrix products (2048 = 32 * 64) at the speed of the linear algebra library.
``[..., 2, N]`` holds a polynomial modulo both primes.

What depends on secrets here are multiplications, additions, roundings and matrix products on arrays of a
fixed size, without secret indices or branches. What is *not* constant time: rejection sampling of uniform
secrets (time depends on rejected words only, never on those kept), and whatever the processor does with
doubles, which for integers of this size (no denormals) is not known to depend on their values. Freed memory
is not wiped by Python; :func:`wipe` overwrites arrays that hold secrets, but neither keys given as ``bytes``
nor temporaries within one operation nor copies that the libraries made.

Source: negacyclic transforms: Longa, Naehrig, "Speeding up the Number Theoretic Transform" (2016); the
four-step form: Bailey (1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from galaxylearning.errors import UpdateRefused

F64: TypeAlias = npt.NDArray[np.float64]

DEGREE: Final = 2048
"""N: coefficients of a polynomial."""

BLOCK_ROWS: Final = 32
"""Rows worked off at once; with the temporaries of a transform they fit a cache. Part of what a public seed
means: each block of rows has its own stream."""

ERROR_HALF_WIDTH: Final = 21
ERROR_VARIANCE: Final = ERROR_HALF_WIDTH / 2
"""Errors are centred binomial, -21..21: standard deviation 3.24, and sub-Gaussian with this variance."""

_OUTER: Final = 32
_INNER: Final = DEGREE // _OUTER


class PrimeField:
    """Arithmetic modulo one prime p = 1 mod 4096 below 2**24, on doubles that hold integers."""

    def __init__(self, prime: int) -> None:
        if not 4096 < prime < 1 << 24 or prime % (2 * DEGREE) != 1:
            raise ValueError(f"a prime must be 1 mod {2 * DEGREE} and below 2^24, not {prime}")
        self.prime = prime
        self._p = float(prime)
        self._inverse = 1.0 / prime

    def centred(self, x: F64, *, out: F64 | None = None) -> F64:
        """Reduce ``|x| <= 2**53`` to within ``p/2 + 32`` of zero."""
        found = np.multiply(x, self._inverse)
        np.rint(found, out=found)
        found *= self._p
        return np.subtract(x, found, out=found if out is None else out)

    def canonical(self, x: F64) -> F64:
        """Reduce ``|x| < 2**47`` to 0..p-1."""
        # The half keeps multiples of p from falling to the interval below.
        found = np.add(x, 0.5)
        found *= self._inverse
        np.floor(found, out=found)
        found *= self._p
        return np.subtract(x, found, out=found)

    @cached_property
    def _tables(self) -> tuple[F64, F64, F64, F64, F64, F64]:
        """Outer, twist and inner factors, forward and backward, all centred."""
        p = self.prime
        psi = next(r for g in range(2, p) if pow(r := pow(g, (p - 1) // (2 * DEGREE), p), DEGREE, p) == p - 1)
        powers = np.array([pow(psi, k, p) for k in range(2 * DEGREE)], np.float64)
        powers = np.where(powers > p // 2, powers - p, powers)
        k1, j1 = np.arange(_OUTER)[:, None], np.arange(_OUTER)[None, :]
        j2 = np.arange(_INNER)
        outer = _INNER * (2 * k1 + 1) * j1
        twist = (2 * k1 + 1) * j2[None, :]
        inner = 2 * _OUTER * j2[:, None] * j2[None, :]

        def table(exponents: npt.NDArray[np.int64]) -> F64:
            return np.ascontiguousarray(powers[exponents % (2 * DEGREE)])

        back = self.centred(table(-outer.T) * float(pow(DEGREE, -1, p)))
        return table(outer), table(twist), table(inner), back, table(-twist), table(-inner)

    def to_values(self, x: F64) -> F64:
        """The transform of coefficients [..., N], ``|x| <= p``: centred values at the roots of X^N + 1.

        The value at ``psi**(2 k + 1)``, ``k = k1 + 32 k2``, stands at ``64 k1 + k2``.
        """
        outer, twist, inner = self._tables[:3]
        work = self.centred(np.matmul(outer, x.reshape(-1, _OUTER, _INNER)))
        work *= twist
        self.centred(work, out=work)
        return self.centred((work.reshape(-1, _INNER) @ inner).reshape(x.shape))

    def to_coefficients(self, x: F64) -> F64:
        """The inverse of :meth:`to_values`, for values [..., N], ``|x| <= p``; centred."""
        outer, twist, inner = self._tables[3:]
        work = self.centred((x.reshape(-1, _INNER) @ inner).reshape(-1, _OUTER, _INNER))
        work *= twist
        self.centred(work, out=work)
        return self.centred(np.matmul(outer, work).reshape(x.shape))

    def product(self, left: F64, right: F64) -> F64:
        """Matrix product ``left @ right``, [a, n] by [n, b], for residues of any sign below 2**24; centred.

        Exact for n up to 2**16: ``left`` is cut into limbs of 12 bits.
        """
        if left.shape[-1] > 1 << 16:
            raise ValueError("at most 2**16 terms")
        high = np.rint(left * 2.0**-12)
        low = left - high * 4096.0
        upper = self.centred(high @ right)
        return self.centred(upper * 4096.0 + low @ right)


@dataclass(frozen=True)
class Ring:
    """Two primes just below ``2**bits``; ``pair_bytes`` hold one coefficient modulo both."""

    name: str
    bits: int
    primes: tuple[int, int]

    @cached_property
    def fields(self) -> tuple[PrimeField, PrimeField]:
        """Arithmetic modulo each prime."""
        return PrimeField(self.primes[0]), PrimeField(self.primes[1])

    @property
    def modulus(self) -> int:
        """q, the product of the primes."""
        return self.primes[0] * self.primes[1]

    @property
    def pair_bytes(self) -> int:
        """Bytes of one coefficient on the wire."""
        return self.bits // 4

    @property
    def row_bytes(self) -> int:
        """Bytes of one polynomial on the wire."""
        return DEGREE * self.pair_bytes

    @property
    def absent(self) -> int:
        """All ones: no residue; on the wire it says that there is none."""
        return (1 << self.bits) - 1

    def lift(self, residues: F64) -> F64:
        """The integers in (-q/2, q/2) that ``residues`` [..., 2, W], 0..p-1, stand for: [..., W]."""
        first, second = residues[..., 0, :], residues[..., 1, :]
        inverse = float(pow(self.primes[0], -1, self.primes[1]))
        quotient = self.fields[1].canonical(self.fields[1].centred((second - first) * inverse))
        value: F64 = np.multiply(quotient, float(self.primes[0]))
        value += first
        np.subtract(value, float(self.modulus), out=value, where=value > self.modulus // 2)
        return value


NARROW: Final = Ring("narrow", 20, (1_032_193, 995_329))
"""q = 2**39.9; 5 bytes a coefficient."""

WIDE: Final = Ring("wide", 24, (16_760_833, 16_736_257))
"""q = 2**47.99; 6 bytes a coefficient."""

RINGS: Final = (NARROW, WIDE)


class Stream:
    """Pseudo-random words: AES-256 in counter mode under a 32-byte key, from a 16-byte starting counter."""

    def __init__(self, key: bytes, start: bytes = bytes(16)) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next ``count`` words of 64 bits."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), "<u8")

    def uniform(self, ring: Ring, prime: int, count: int) -> F64:
        """``count`` residues, uniform on 0..prime-1, by rejection: no modulo, no bias."""
        found = np.empty(count)
        at = 0
        while at < count:
            missing = (count - at) * (1 << ring.bits) / prime
            # Six standard deviations more than what is expected to be kept.
            drawn = int(missing + 6.0 * (missing * (1.0 - prime / (1 << ring.bits))) ** 0.5) + 2
            raw = np.frombuffer(self._encryptor.update(bytes(4 * drawn)), "<u4") >> (32 - ring.bits)
            kept = raw[raw < prime][: count - at]
            found[at : at + len(kept)] = kept
            at += len(kept)
        return found

    def errors(self, count: int) -> F64:
        """``count`` centred binomial errors, -21..21.

        42 fair bits less 21 have the same law as a difference of two sums of 21.
        """
        ones = np.bitwise_count(self.words(count) >> np.uint64(64 - 2 * ERROR_HALF_WIDTH))
        found: F64 = np.subtract(ones, float(ERROR_HALF_WIDTH), dtype=np.float64)
        return found


def public_rows(ring: Ring, seed: bytes, prime_index: int, block: int, rows: int) -> F64:
    """Rows of the public polynomials, as values: [rows, N], uniform on 0..p-1.

    They are the first ``rows`` (1..BLOCK_ROWS) of block ``block`` (from 0) of those that the 32-byte ``seed``
    stands for; everybody who has the seed gets the same.
    """
    if not 1 <= rows <= BLOCK_ROWS:
        raise ValueError(f"rows must be 1 to {BLOCK_ROWS}, not {rows}")
    start = bytes([ring.bits, prime_index]) + block.to_bytes(6, "big") + bytes(8)
    prime = ring.primes[prime_index]
    return Stream(seed, start).uniform(ring, prime, rows * DEGREE).reshape(rows, DEGREE)


def wipe(*arrays: F64) -> None:
    """Overwrite what holds secrets."""
    for array in arrays:
        array.fill(0)


def pack(ring: Ring, residues: F64) -> bytes:
    """Bytes of ``residues`` [R, 2, W], integers 0..p-1: ``R * W * pair_bytes`` of them.

    Row by row: the low 16 bits modulo the first prime, little-endian, W times; those modulo the second; then
    what is above, one byte for both (the first one's low) in the narrow ring, else W bytes for each.
    """
    count, _, width = residues.shape
    found = np.empty((count, width * ring.pair_bytes), np.uint8)
    whole = residues.astype(np.uint32)
    found[:, : 4 * width].view("<u2").reshape(count, 2, width)[...] = whole & 0xFFFF
    whole >>= 16
    high = found[:, 4 * width :]
    if ring.bits == 20:
        high[...] = whole[:, 0] | whole[:, 1] << 4
    else:
        high.reshape(count, 2, width)[...] = whole
    return found.tobytes()


def unpack(
    ring: Ring, data: bytes | memoryview, *, width: int, where: str, is_absent_allowed: bool = False
) -> F64:
    """The inverse of :func:`pack`: [R, 2, W], R given by the length.

    With ``is_absent_allowed`` a row may consist of ``ring.absent`` throughout.

    Raises:
        UpdateRefused: not bytes, not a whole number of rows, or a residue that is not below its prime.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UpdateRefused(f"must be bytes, not {type(data).__name__}", where=where)
    row = width * ring.pair_bytes
    raw = np.frombuffer(data, np.uint8)
    if raw.size == 0 or raw.size % row:
        raise UpdateRefused(f"must be a multiple of {row} bytes, not {raw.size}", where=where)
    raw = raw.reshape(-1, row)
    low = raw[:, : 4 * width].view("<u2")
    high = raw[:, 4 * width :]
    # Each prime's residues lie together.
    found = np.empty((2, len(raw), width)).transpose(1, 0, 2)
    tops = (high & 15, high >> 4) if ring.bits == 20 else (high[:, :width], high[:, width:])
    for index, top in enumerate(tops):
        part = found[:, index]
        np.multiply(top, 65536.0, out=part, dtype=np.float64)
        part += low[:, index * width : (index + 1) * width]
    if any(found[:, index].max() >= prime for index, prime in enumerate(ring.primes)):
        present = ~(found == ring.absent).all(axis=(1, 2)) if is_absent_allowed else slice(None)
        for index, prime in enumerate(ring.primes):
            if bool((found[present, index] >= prime).any()):
                raise UpdateRefused(f"a residue is not below {prime}", where=where)
    return found
