"""Utilities and values as integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from galaxylearning.contribution import FixedPointUtility, from_fixed, saturated, to_fixed
from galaxylearning.errors import ConfigRefused, DataRefused

UNIT = 1 << 20


def test_utility_by_hand() -> None:
    found = FixedPointUtility().utility(np.array([0.5, 7.0, 0.25]), 4.0)
    assert found == -(UNIT // 2 + 4 * UNIT + UNIT // 4)
    assert FixedPointUtility().to_loss(found) == -4.75


def test_less_loss_is_more_utility_in_any_order() -> None:
    losses = np.random.default_rng(0).exponential(size=500)
    utility = FixedPointUtility()
    assert utility.utility(losses, 4.0) == utility.utility(losses[::-1].copy(), 4.0)
    assert utility.utility(losses * 0.9, 4.0) > utility.utility(losses, 4.0)


def test_one_sample_moves_it_by_at_most_the_clip() -> None:
    utility = FixedPointUtility()
    assert utility.utility(np.array([1e300]), 2.0) == -2 * UNIT
    assert utility.utility(np.array([-1e300]), 2.0) == 2 * UNIT


@pytest.mark.parametrize(
    "losses",
    [
        np.array([0.1, math.nan]),
        np.array([math.inf]),
        np.array([-math.inf]),
        np.zeros(0),
        np.zeros((2, 2)),
        np.zeros(2, np.float32),
        [0.1],
        None,
    ],
)
def test_losses_that_cannot_be_summed_are_an_error(losses: Any) -> None:
    with pytest.raises(DataRefused, match="per_sample_loss"):
        FixedPointUtility().utility(losses, 4.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 1e7, True, "4"])
def test_a_bad_clip_is_refused(clip: Any) -> None:
    with pytest.raises(ConfigRefused, match="clip"):
        FixedPointUtility().utility(np.zeros(1), clip)


def test_a_sum_beyond_63_bits_is_refused() -> None:
    with pytest.raises(DataRefused, match="63 bits"):
        FixedPointUtility(30).utility(np.zeros(10_000), 1e6)


def test_values_are_rounded_to_2_to_the_minus_40() -> None:
    assert to_fixed([0.0, 1.0, -0.5, 2.0**-41, 3 * 2.0**-41]) == (0, 1 << 40, -(1 << 39), 0, 2)
    assert to_fixed(np.array([0.25])) == (1 << 38,)
    assert from_fixed(1 << 39) == 0.5
    assert to_fixed([]) == ()


def test_values_at_the_limit() -> None:
    assert to_fixed([2.0**23 - 1]) == ((2**23 - 1) << 40,)
    most = 2**63 - 1
    assert to_fixed([2.0**23, -(2.0**23), 1e308, -1e308]) == (most, -most, most, -most)
    assert [saturated(value) for value in (most, most + 1, -most, -most - 1)] == [most, most, -most, -most]
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(DataRefused, match=r"values\[1\]"):
            to_fixed([0.0, bad])
