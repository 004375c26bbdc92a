"""The stream of secret integers: a published vector, exact ranges, and seeded entropy that repeats."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from galaxylearning.crypto.secret_stream import SecretStream, seeded_entropy

KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
PLAIN = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
CIPHER = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5")
"""NIST SP 800-38A, F.5.5 (CTR-AES256.Encrypt), the first two blocks."""


def given(*parts: bytes) -> Callable[[int], bytes]:
    left = list(parts)
    return lambda _count: left.pop(0)


def test_the_words_are_the_published_keystream() -> None:
    stream = SecretStream(given(KEY, COUNTER))
    found = stream.words(1).tobytes() + stream.words(3).tobytes()
    assert found == bytes(a ^ b for a, b in zip(PLAIN, CIPHER, strict=True))


def test_short_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="32 and 16 bytes"):
        SecretStream(given(KEY[:31], COUNTER))
    with pytest.raises(ValueError, match="32 and 16 bytes"):
        SecretStream(given(KEY, b""))


@pytest.mark.parametrize("bound", [1, 2, 3, 1000, (1 << 62) - 57, 1 << 62])
def test_integers_stay_below_their_bound(bound: int) -> None:
    found = SecretStream(seeded_entropy(1)).below(bound, 5_000)
    assert found.min() >= 0
    assert found.max() < bound
    if bound > 3:
        assert abs(found.mean() / bound - 0.5) < 5 * (1 / 12 / 5_000) ** 0.5


def test_small_integers_are_equally_likely() -> None:
    counts = np.bincount(SecretStream(seeded_entropy(2)).below(7, 70_000), minlength=7)
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 22.5  # chi-square, 6 degrees, p = 0.001


def test_words_above_the_last_multiple_are_drawn_again() -> None:
    # Three quarters of 2^64 is the last multiple of 3 * 2^61 below it: a quarter of all words is refused.
    bound = 3 << 60
    words = SecretStream(seeded_entropy(3)).words(100)
    limit = (1 << 64) // bound * bound
    found = SecretStream(seeded_entropy(3)).below(bound, 100)
    kept = words < np.uint64(limit)
    assert 0 < int((~kept).sum()) < 100
    assert (found[kept] == (words[kept] % np.uint64(bound)).astype(np.int64)).all()


@pytest.mark.parametrize("bound", [0, -1, (1 << 62) + 1])
def test_a_bound_out_of_range_is_refused(bound: int) -> None:
    with pytest.raises(ValueError, match="bound must be from 1"):
        SecretStream(os.urandom).below(bound, 1)


def test_seeded_entropy_repeats_and_differs_by_seed_and_place() -> None:
    first, again = seeded_entropy(5, 6), seeded_entropy(5, 6)
    assert [first(32), first(16), first(1)] == [again(32), again(16), again(1)]
    assert first(32) != first(32)
    assert seeded_entropy(5, 6)(32) != seeded_entropy(6, 5)(32)
    assert seeded_entropy(5)(32) != seeded_entropy(5, 0)(32)
    with pytest.raises(OverflowError):
        seeded_entropy(-1)
