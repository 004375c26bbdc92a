"""The axioms, as laws over arbitrary games and tables."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxylearning.contribution import (
    Game,
    GameValues,
    exact_banzhaf,
    exact_shapley,
    leave_one_out,
    median_table,
    merge_twins,
    sampled_shapley,
    to_fixed,
)

N = 4
FLOATS = st.floats(-100, 100)
WORTHS = st.lists(FLOATS, min_size=1 << N, max_size=1 << N)
SEMIVALUES = pytest.mark.parametrize("value", [exact_shapley, exact_banzhaf, leave_one_out])
Value = Callable[[Game], GameValues]


def table_game(worths: list[float]) -> Game:
    return Game(N, lambda s: worths[sum(1 << i for i in s)])


@given(WORTHS, st.integers(0, 2**32))
def test_efficiency(worths: list[float], seed: int) -> None:
    game = table_game(worths)
    gain = worths[-1] - worths[0]
    assert float(np.sum(exact_shapley(game).values)) == pytest.approx(gain, abs=1e-9)
    sampled = sampled_shapley(game, 3, rng=np.random.default_rng(seed))
    assert float(np.sum(sampled.values)) == pytest.approx(gain, abs=1e-9)


@SEMIVALUES
@given(WORTHS, st.permutations(range(N)))
def test_symmetry(value: Value, worths: list[float], order: list[int]) -> None:
    """Renaming the players renames their values."""
    base = table_game(worths)
    renamed = Game(N, lambda s: base.utility(frozenset(order[i] for i in s)))
    before, after = value(base).values, value(renamed).values
    assert after.tolist() == pytest.approx([before[order[i]] for i in range(N)], abs=1e-9)


@SEMIVALUES
@given(WORTHS, st.integers(0, N - 1))
def test_a_player_that_adds_nothing_is_worth_nothing(value: Value, worths: list[float], idle: int) -> None:
    base = table_game(worths)
    game = Game(N, lambda s: base.utility(s - {idle}))
    assert value(game).values[idle] == pytest.approx(0.0, abs=1e-9)


@SEMIVALUES
@given(WORTHS, WORTHS, st.floats(-3, 3))
def test_linearity(value: Value, one: list[float], two: list[float], factor: float) -> None:
    mixed = [a + factor * b for a, b in zip(one, two, strict=True)]
    expected = value(table_game(one)).values + factor * value(table_game(two)).values
    assert value(table_game(mixed)).values.tolist() == pytest.approx(expected.tolist(), abs=1e-8)


INTS = st.integers(-(2**50), 2**50)
PLAYERS = "abcdef"


@given(
    st.fixed_dictionaries(dict.fromkeys(PLAYERS, INTS)),
    st.fixed_dictionaries(dict.fromkeys(PLAYERS, st.integers(1, 15))),
    st.sampled_from([[], ["ab"], ["ab", "cd"], ["abc"], ["ab", "cdef"], ["abcdef"]]),
)
def test_merged_values_sum_to_the_exact_sum(
    values: dict[str, int], weights: dict[str, int], names: list[str]
) -> None:
    merged = merge_twins(values, [frozenset(group) for group in names], weights=weights)
    size = {p: next((len(g) for g in names if p in g), 1) for p in PLAYERS}
    players = sum((Fraction(w, size[p]) for p, w in weights.items()), Fraction(0))
    factor = sum(weights.values()) / players
    exact = {p: Fraction(v, size[p]) * factor for p, v in values.items()}
    total = sum(exact.values(), Fraction(0))
    assert sum(merged.values()) == total.numerator // total.denominator
    assert all(abs(merged[p] - exact[p]) < 1 for p in PLAYERS)


@given(st.lists(INTS, min_size=1, max_size=9), st.data())
def test_a_lying_minority_moves_no_median_beyond_the_honest(honest: list[int], data: st.DataObject) -> None:
    lies = data.draw(st.lists(INTS, max_size=len(honest) - 1))
    tables = data.draw(st.permutations([{"a": value} for value in [*honest, *lies]]))
    assert min(honest) <= median_table(tables)["a"] <= max(honest)


@given(st.lists(st.floats(-1e6, 1e6), max_size=8))
def test_fixed_point_is_monotone_and_odd(values: list[float]) -> None:
    fixed = to_fixed(values)
    assert to_fixed([-value for value in values]) == tuple(-value for value in fixed)
    assert list(to_fixed(sorted(values))) == sorted(fixed)
    assert all(abs(Fraction(v) * 2**40 - f) <= Fraction(1, 2) for v, f in zip(values, fixed, strict=True))
