"""Ring arithmetic: transforms against naive products, exactness at the ends, streams, bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.crypto.ring import (
    BLOCK_ROWS,
    DEGREE,
    NARROW,
    RINGS,
    WIDE,
    PrimeField,
    Ring,
    Stream,
    pack,
    public_rows,
    unpack,
    wipe,
)
from galaxylearning.errors import UpdateRefused

KEY = bytes(range(32))
FIELDS = [field for ring in RINGS for field in ring.fields]


def naive_product(left: Any, right: Any, prime: int) -> Any:
    """left * right mod X^N + 1, in Python-sized integers by 12-bit limbs of numpy's convolution."""
    a, b = left.astype(np.int64) % prime, right.astype(np.int64) % prime
    total = np.zeros(2 * DEGREE - 1, np.int64)
    for shift in (0, 12):
        # 2,048 * 2**12 * 2**24 < 2**47: exact.
        total = (total + (np.convolve((a >> shift) & 4095, b) % prime << shift)) % prime
    return (total[:DEGREE] - np.append(total[DEGREE:], 0)) % prime


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
def test_the_primes_are_what_they_must_be(ring: Ring) -> None:
    for prime in ring.primes:
        assert prime % (2 * DEGREE) == 1
        assert prime < 1 << ring.bits
        assert all(prime % d for d in range(2, int(prime**0.5) + 1))
    assert ring.primes[0] != ring.primes[1]
    # The table for 128 bits, N = 2048 and uniform secrets ends at 56 bits.
    assert ring.modulus < 1 << 56


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.prime))
def test_products_of_values_are_negacyclic_products(field: PrimeField) -> None:
    rng = np.random.default_rng(field.prime)
    left, right = (rng.integers(0, field.prime, DEGREE).astype(float) for _ in range(2))
    values = field.centred(field.to_values(left) * field.to_values(right))
    found = field.canonical(field.to_coefficients(values))
    assert np.array_equal(found, naive_product(left, right, field.prime))


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.prime))
def test_transforms_are_exact_where_sums_are_largest(field: PrimeField) -> None:
    tables = field._tables
    worst = np.stack([np.sign(tables[0][1].repeat(64)), np.ones(DEGREE), np.tile(np.sign(tables[2][1]), 32)])
    worst = np.concatenate([worst * (field.prime // 2), worst * -float(field.prime)])
    back = field.canonical(field.to_coefficients(field.to_values(worst)))
    assert np.array_equal(back, worst % field.prime)
    one = np.zeros((2, DEGREE))
    one[0, 0], one[1, DEGREE - 1] = 1, 1
    shifted = field.to_coefficients(field.centred(field.to_values(worst[:1]) * field.to_values(one[1:])))
    expected = naive_product(worst[0], one[1], field.prime)
    assert np.array_equal(field.canonical(shifted)[0], expected)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.prime))
def test_reversed_values_are_those_of_the_adjoint(field: PrimeField) -> None:
    a = np.random.default_rng(1).integers(0, field.prime, DEGREE).astype(float)
    adjoint = np.concatenate([a[:1], -a[:0:-1]])
    assert np.array_equal(field.to_values(a)[::-1] % field.prime, field.to_values(adjoint) % field.prime)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.prime))
def test_reduction_is_exact_up_to_its_bounds(field: PrimeField) -> None:
    p = field.prime
    quotients = np.array([0, 1, 2, 5, (2**46) // p])
    x = (quotients[:, None] * p + np.array([-1, 0, 1, p // 2, p // 2 + 1])).ravel().astype(float)
    x = np.concatenate([x, -x])
    assert np.array_equal(field.canonical(x), x.astype(np.int64) % p)
    large = np.array([2.0**53, 2.0**53 - 1, -(2.0**53) + 3])
    found = field.centred(large)
    assert np.abs(found).max() <= p / 2 + 32
    assert np.array_equal(found % p, large.astype(np.int64) % p)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.prime))
def test_matrix_products_are_exact(field: PrimeField) -> None:
    p = field.prime
    left, right = np.full((2, 1 << 16), float(p - 1)), np.full((1 << 16, 1), float(p - 1))
    left[1] *= -1
    expected = [[(1 << 16) * (p - 1) ** 2 % p], [-(1 << 16) * (p - 1) ** 2 % p]]
    assert field.canonical(field.product(left, right)).tolist() == expected
    with pytest.raises(ValueError, match="2\\*\\*16"):
        field.product(np.zeros((1, (1 << 16) + 1)), np.zeros(((1 << 16) + 1, 1)))


@pytest.mark.parametrize("prime", [4097, 1_032_192, (1 << 24) + 1])
def test_other_moduli_are_refused(prime: int) -> None:
    with pytest.raises(ValueError, match="1 mod 4096"):
        PrimeField(prime + (prime == 4097))


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
def test_lifting_undoes_residues(ring: Ring) -> None:
    half = ring.modulus // 2
    integers = [0, 1, -1, half, -half, half - 7, 12345678901]
    residues = np.array([[x % p for x in integers] for p in ring.primes], float)
    assert ring.lift(residues).tolist() == integers


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
def test_uniform_residues_are_uniform_and_repeat_by_key_only(ring: Ring) -> None:
    prime = ring.primes[1]
    drawn = Stream(KEY).uniform(ring, prime, 200_000)
    assert drawn.min() >= 0
    assert drawn.max() < prime
    counts = np.histogram(drawn, bins=64, range=(0, prime))[0]
    expected = len(drawn) / 64
    assert float(np.sum((counts - expected) ** 2 / expected)) < 130  # 63 degrees of freedom: P < 1e-6
    assert np.array_equal(drawn[:100], Stream(KEY).uniform(ring, prime, 100))
    assert not np.array_equal(drawn[:100], Stream(KEY[::-1]).uniform(ring, prime, 100))


def test_errors_are_centred_binomial() -> None:
    drawn = Stream(KEY).errors(400_000)
    assert np.abs(drawn).max() <= 21
    assert drawn.mean() == pytest.approx(0, abs=0.03)
    assert drawn.var() == pytest.approx(10.5, rel=0.02)
    assert np.mean(drawn**4) / drawn.var() ** 2 == pytest.approx(3 - 2 / 42, rel=0.02)


def test_the_stream_is_aes_in_counter_mode() -> None:
    """NIST SP 800-38A, F.5.5: the first key-stream block is the plaintext xor the ciphertext."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    assert Stream(key, counter).words(2).tobytes().hex() == "0bdf7df1591716335e9a8b15c860c502"


def test_public_rows_depend_on_seed_prime_and_block_only() -> None:
    first = public_rows(NARROW, KEY, 0, 0, BLOCK_ROWS)
    assert np.array_equal(public_rows(NARROW, KEY, 0, 0, 3), first[:3])
    for other in (
        public_rows(NARROW, KEY[::-1], 0, 0, BLOCK_ROWS),
        public_rows(NARROW, KEY, 1, 0, BLOCK_ROWS),
        public_rows(NARROW, KEY, 0, 1, BLOCK_ROWS),
        public_rows(WIDE, KEY, 0, 0, BLOCK_ROWS),
    ):
        assert np.mean(other == first) < 0.001
    with pytest.raises(ValueError, match="rows"):
        public_rows(NARROW, KEY, 0, 0, BLOCK_ROWS + 1)


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
@pytest.mark.parametrize("width", [1, 17, DEGREE])
def test_bytes_hold_residues_exactly(ring: Ring, width: int) -> None:
    rng = np.random.default_rng(width)
    residues = np.stack([rng.integers(0, p, (3, width)) for p in ring.primes], axis=1).astype(float)
    residues[0, :, 0] = [p - 1 for p in ring.primes]
    data = pack(ring, residues)
    assert len(data) == 3 * width * ring.pair_bytes
    assert np.array_equal(unpack(ring, data, width=width, where="body"), residues)


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
def test_other_bytes_are_refused(ring: Ring) -> None:
    good = pack(ring, np.zeros((1, 2, 4)))
    for bad in (b"", good[:-1], good + b"\0", "text"):
        with pytest.raises(UpdateRefused, match="body"):
            unpack(ring, bad, width=4, where="body")  # type: ignore[arg-type]
    for index, prime in enumerate(ring.primes):
        residues = np.zeros((1, 2, 4))
        residues[0, index, 3] = prime
        with pytest.raises(UpdateRefused, match=f"below {prime}"):
            unpack(ring, pack(ring, residues), width=4, where="body")


def test_wiped_arrays_hold_nothing() -> None:
    secret = np.ones(5)
    wipe(secret)
    assert not secret.any()
