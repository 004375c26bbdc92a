"""Laws of secret sharing: any T + 1 recover, T know nothing, few liars change nothing and are named."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.crypto.ring import RINGS, Ring
from galaxylearning.crypto.shamir import recover, share


def residues(ring: Ring, rng: Any, *shape: int) -> Any:
    return np.stack([rng.integers(0, p, shape) for p in ring.primes], axis=-2).astype(float)


@st.composite
def sharings(draw: Any) -> Any:
    ring = draw(st.sampled_from(RINGS))
    members = draw(st.integers(2, 15))
    threshold = draw(st.integers(1, members - 1))
    present = draw(st.sets(st.integers(0, members - 1), min_size=threshold + 1))
    order = draw(st.permutations(sorted(present)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    secret = residues(ring, rng, 9)
    shares = share(ring, secret, members=members, threshold=threshold, entropy=os.urandom)
    return ring, threshold, order, secret, shares, rng


@settings(max_examples=60, deadline=None)
@given(sharings(), st.booleans())
def test_any_members_recover_though_some_lie(case: Any, is_same_liars: bool) -> None:
    ring, threshold, order, secret, shares, rng = case
    answers = shares[order]
    most = (len(order) - threshold - 1) // 2
    wrong = np.zeros((len(order), 9), bool)
    for word in range(9):
        if word == 0 or not is_same_liars:
            liars = rng.choice(len(order), rng.integers(0, most + 1), replace=False)
        wrong[liars, word] = True
        for liar in liars:
            index = rng.integers(2)
            prime = ring.primes[index]
            answers[liar, index, word] = (answers[liar, index, word] + rng.integers(1, prime)) % prime
    found = recover(ring, answers, members=order, threshold=threshold)
    assert found.decoded.all()
    assert np.array_equal(found.values, secret)
    assert np.array_equal(found.wrong, wrong)


@settings(max_examples=30, deadline=None)
@given(sharings())
def test_words_beyond_correction_are_reported_not_guessed(case: Any) -> None:
    ring, threshold, order, _, shares, rng = case
    if len(order) == threshold + 1:
        return  # nothing is left over that could tell
    answers = shares[order]
    answers[:, :, 4] = residues(ring, rng, len(order)).T.reshape(len(order), 2)
    found = recover(ring, answers, members=order, threshold=threshold)
    # Random words are a sharing with probability 1/q at most a few thousand times.
    assert found.decoded.tolist() == [word != 4 for word in range(9)]
    assert not found.wrong.any()
    assert not found.values[:, 4].any()


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
def test_threshold_shares_fit_every_secret(ring: Ring) -> None:
    """Given T shares, one more point makes any secret whatever: they carry no information about it."""
    rng = np.random.default_rng(3)
    shares = share(ring, residues(ring, rng, 5), members=5, threshold=2, entropy=os.urandom)
    other = residues(ring, rng, 5)
    for index, prime in enumerate(ring.primes):
        # A polynomial of degree 2 through 0, 1 and 2; its value at 3 is y0 - 3 y1 + 3 y2.
        third = (other[index] - 3 * shares[0, index] + 3 * shares[1, index]) % prime
        shares[2, index] = third
    found = recover(ring, shares[:3], members=[0, 1, 2], threshold=2)
    assert np.array_equal(found.values, other)


def test_shares_are_uniform_and_fresh() -> None:
    ring = RINGS[0]
    secret = np.zeros((2, 2048))
    first = share(ring, secret, members=3, threshold=1, entropy=os.urandom)
    second = share(ring, secret, members=3, threshold=1, entropy=os.urandom)
    assert np.mean(first == second) < 0.01
    assert first[:, 0].mean() == pytest.approx(ring.primes[0] / 2, rel=0.05)


@pytest.mark.parametrize(("members", "threshold"), [(1, 1), (16, 3), (5, 0), (5, 5)])
def test_sharings_that_protect_nothing_are_refused(members: int, threshold: int) -> None:
    with pytest.raises(ValueError, match="no sharing"):
        share(RINGS[0], np.zeros((2, 4)), members=members, threshold=threshold, entropy=os.urandom)


@pytest.mark.parametrize("members", [[0, 1], [0, 1, 1], [0, 1, 15], [0, 1, -1]])
def test_answers_of_too_few_or_unknown_members_are_refused(members: list[int]) -> None:
    with pytest.raises(ValueError, match="members"):
        recover(RINGS[0], np.zeros((len(members), 2, 4)), members=members, threshold=2)
