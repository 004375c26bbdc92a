"""Weights that nobody carries alone."""

from __future__ import annotations

from contextlib import suppress
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.errors import ConfigRefused, QuorumMissing
from galaxylearning.secagg.weights import check_carried, shared_weights


def shared(*weights: int, minimum: int = 3) -> list[int]:
    return [int(weight) for weight in shared_weights(np.array(weights, np.int64), minimum)]


def test_what_is_shared_already_stays() -> None:
    assert shared(15, 15, 15) == [15, 15, 15]
    assert shared(15, 9, 15, 9, 15, 9, 0) == [15, 9, 15, 9, 15, 9, 0]
    assert shared(7, 5, 3, minimum=1) == [7, 5, 3]


def test_the_least_weight_is_given_up() -> None:
    assert shared(15, 15, 15, 14) == [14, 14, 14, 14]
    # One that would drag the others down is left out.
    assert shared(15, 15, 15, 1) == [15, 15, 15, 0]
    assert shared(15, 15, 15, 15, 15, 15, 14, 13, 12) == [15] * 6 + [12] * 3


def test_too_few_carry_nothing() -> None:
    assert shared(15, 14) == [0, 0]
    assert shared() == []
    assert shared(0, 0, 0) == [0, 0, 0]
    with pytest.raises(ConfigRefused, match="at least 1"):
        shared(1, minimum=0)


@given(st.lists(st.integers(0, 15), max_size=24), st.integers(1, 5))
def test_nobody_gains_and_nobody_stands_alone(weights: list[int], minimum: int) -> None:
    before = np.array(weights, np.int64)
    after = shared_weights(before, minimum)
    assert bool((after <= before).all())
    assert bool((after >= 0).all())
    check_carried(after, minimum)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), max_size=5), st.integers(1, 3))
def test_as_much_weight_as_possible_is_kept(weights: list[int], minimum: int) -> None:
    best = 0
    for chosen in product(*(range(weight + 1) for weight in weights)):
        candidate = np.array(chosen, np.int64)
        with suppress(QuorumMissing):
            check_carried(candidate, minimum)
            best = max(best, sum(chosen))
    assert int(shared_weights(np.array(weights, np.int64), minimum).sum()) == best


def test_a_weight_that_stands_alone_is_refused() -> None:
    with pytest.raises(QuorumMissing, match="weight 14 must be that of at least 3 owners, not 1"):
        check_carried(np.array([15, 15, 15, 14], np.int64), 3)
    check_carried(np.array([15, 15, 15, 0], np.int64), 3)
