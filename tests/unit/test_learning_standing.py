"""Standing: what cosines of many rounds do to weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.learning import Standings
from galaxylearning.learning.exact import lower_median
from galaxylearning.learning.standing import FEWEST_ROUNDS, to_units
from galaxylearning.units import COSINE_UNIT

NAMES = ("a", "b", "c", "d", "e")
FULL = np.full(5, 15, np.int64)


def cosines(*values: float) -> Any:
    return np.array(values, np.float64)


def after(rounds: int, *values: float) -> Standings:
    standings = Standings()
    for _ in range(rounds):
        standings.add(NAMES, cosines(*values))
    return standings


def test_weight_falls_from_eight_tenths_of_the_medians_to_five() -> None:
    these = (0.8, 0.6, 0.5, 0.35, 0.25)
    standings = after(FEWEST_ROUNDS - 1, *these)
    found = standings.lowered(NAMES, cosines(*these), FULL)
    assert found.tolist() == [15, 15, 15, 10, 0]  # 15 * (0.7 - 0.5) / 0.3
    these = (0.8, 0.6, 0.5, 0.41, 0.3)
    standings = after(FEWEST_ROUNDS - 1, *these)
    found = standings.lowered(NAMES, cosines(*these), FULL)
    assert found.tolist() == [15, 15, 15, 15, 5]  # 15 * (0.6 - 0.5) / 0.3


def test_one_round_against_the_rest_changes_little() -> None:
    standings = after(20, 0.5, 0.5, 0.5, 0.5, 0.5)
    assert standings.lowered(NAMES, cosines(0.5, 0.5, 0.5, 0.5, -0.5), FULL).tolist() == [15] * 5


def test_who_stood_badly_is_not_saved_by_one_good_round() -> None:
    standings = after(20, 0.5, 0.5, 0.5, 0.5, 0.1)
    assert standings.lowered(NAMES, cosines(0.5, 0.5, 0.5, 0.5, 1.0), FULL).tolist() == [15, 15, 15, 15, 0]


def test_nobody_is_judged_by_few_rounds() -> None:
    assert FEWEST_ROUNDS == 4
    bad = (0.5, 0.5, 0.5, 0.5, -0.5)
    early = after(FEWEST_ROUNDS - 2, *bad)
    assert early.lowered(NAMES, cosines(*bad), FULL).tolist() == [15] * 5
    early.add(NAMES, cosines(*bad))
    assert early.lowered(NAMES, cosines(*bad), FULL).tolist() == [15, 15, 15, 15, 0]


def test_rounds_missed_do_not_count_against_anybody() -> None:
    standings = after(10, 0.9, 0.9, 0.9, 0.9, 0.9)
    late = ("a", "b", "c", "d", "new")
    for _ in range(FEWEST_ROUNDS):
        standings.add(late, cosines(0.1, 0.1, 0.1, 0.1, 0.1))
    assert standings.lowered(late, cosines(0.1, 0.1, 0.1, 0.1, 0.1), FULL).tolist() == [15] * 5


def test_medians_that_are_not_positive_judge_nobody() -> None:
    these = (0.5, -0.1, -0.1, -0.2, -0.9)
    assert after(9, *these).lowered(NAMES, cosines(*these), FULL).tolist() == [15] * 5
    zero = (0.0, 0.0, 0.0, 0.0, -1.0)
    assert after(9, *zero).lowered(NAMES, cosines(*zero), FULL).tolist() == [15] * 5


def test_weights_of_zero_stay_zero_and_are_not_written_over() -> None:
    weights = np.array([0, 15, 7, 3, 1], np.int64)
    these = (0.5, 0.5, 0.5, 0.5, 0.1)
    assert after(9, *these).lowered(NAMES, cosines(*these), weights).tolist() == [0, 15, 7, 3, 0]
    assert weights.tolist() == [0, 15, 7, 3, 1]


def test_looking_leaves_the_record_as_it_was() -> None:
    these = (0.5, 0.5, 0.5, 0.5, -1.0)
    standings = after(FEWEST_ROUNDS - 2, *these)
    for _ in range(5):
        assert standings.lowered(NAMES, cosines(*these), FULL).tolist() == [15] * 5


@pytest.mark.parametrize("seed", range(50))
def test_order_does_not_matter_and_nothing_grows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounds, order = rng.uniform(-1, 1, (12, 5)), rng.permutation(5)
    one, other = Standings(), Standings()
    for row in rounds:
        one.add(NAMES, row)
        other.add([NAMES[i] for i in order], row[order])
    weights = rng.integers(0, 16, 5)
    found = one.lowered(NAMES, rounds[0], weights)
    turned = other.lowered([NAMES[i] for i in order], rounds[0][order], weights[order])
    assert turned.tolist() == found[order].tolist()
    assert (found <= weights).all()
    assert (found >= 0).all()


def test_units() -> None:
    assert to_units(cosines(-1.5, 0.5, 2.0)).tolist() == [-COSINE_UNIT, COSINE_UNIT // 2, COSINE_UNIT]
    assert lower_median(to_units(cosines(0.25, 1.0))) == COSINE_UNIT // 4
    assert lower_median(to_units(cosines())) == 0


def test_names_and_cosines_must_match() -> None:
    with pytest.raises(ValueError, match="zip"):
        Standings().add(NAMES, cosines(0.1))
