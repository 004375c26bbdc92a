"""Games whose values are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from galaxylearning.contribution import (
    Game,
    coalition_game,
    distance_to_mean,
    exact_banzhaf,
    exact_shapley,
    leave_one_out,
    sampled_banzhaf,
    sampled_shapley,
    size_value,
)
from galaxylearning.contribution.games import banzhaf_from_worths, shapley_from_worths
from galaxylearning.errors import ConfigRefused, DataRefused


def gloves(left: int, right: int) -> Game:
    """A pair is worth 1: players 0..left-1 own a left glove, the others a right one."""
    return Game(
        left + right, lambda s: float(min(len([i for i in s if i < left]), len([i for i in s if i >= left])))
    )


def airport(costs: list[float]) -> Game:
    """A coalition pays for the longest runway it needs."""
    return Game(len(costs), lambda s: -max((costs[i] for i in s), default=0.0))


def majority(n: int) -> Game:
    return Game(n, lambda s: float(2 * len(s) > n))


def unanimity(n: int, needed: set[int]) -> Game:
    return Game(n, lambda s: float(needed <= s))


def additive(worths: list[float]) -> Game:
    return Game(len(worths), lambda s: math.fsum(worths[i] for i in s))


def test_gloves() -> None:
    assert exact_shapley(gloves(1, 2)).values.tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    # the left glove is pivotal in 3 of 4 coalitions of the others, a right one in 1 of 4
    assert exact_banzhaf(gloves(1, 2)).values.tolist() == pytest.approx([3 / 4, 1 / 4, 1 / 4])


def test_airport() -> None:
    # Littlechild & Owen 1973: each segment of the runway is shared by those who need it
    assert exact_shapley(airport([8, 11, 13, 18])).values.tolist() == pytest.approx([-2, -3, -4, -9])


def test_majority_and_unanimity() -> None:
    assert exact_shapley(majority(5)).values.tolist() == pytest.approx([1 / 5] * 5)
    assert exact_banzhaf(majority(5)).values.tolist() == pytest.approx([6 / 16] * 5)
    assert exact_shapley(unanimity(4, {1, 3})).values.tolist() == pytest.approx([0, 1 / 2, 0, 1 / 2])
    assert exact_banzhaf(unanimity(4, {0, 1, 3})).values.tolist() == pytest.approx([1 / 4, 1 / 4, 0, 1 / 4])


def test_bankruptcy() -> None:
    # O'Neill 1982: what claims of 100, 200 and 300 get on average of an estate of 200, served in random order
    claims = [100.0, 200.0, 300.0]
    game = Game(3, lambda s: max(0.0, 200.0 - sum(claims[i] for i in range(3) if i not in s)))
    assert exact_shapley(game).values.tolist() == pytest.approx([100 / 3, 250 / 3, 250 / 3])


def test_weighted_voting() -> None:
    # 51 of 100 votes are needed; the second and the third need the first, and it needs one of them
    votes = [50, 49, 1]
    game = Game(3, lambda s: float(sum(votes[i] for i in s) > 50))
    assert exact_shapley(game).values.tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert exact_banzhaf(game).values.tolist() == pytest.approx([3 / 4, 1 / 4, 1 / 4])


def test_worths_are_numbered_by_bit_mask() -> None:
    # players 0, 1 and 2 are the bits 1, 2 and 4; only 0 and 2 together are worth anything
    worths = np.array([0.0, 0, 0, 0, 0, 6, 0, 6])
    assert shapley_from_worths(worths).tolist() == pytest.approx([3, 0, 3])
    assert banzhaf_from_worths(worths).tolist() == pytest.approx([3, 0, 3])
    assert shapley_from_worths(np.array([1.0, 5.0])).tolist() == [4.0]


def test_sixteen_players_at_once() -> None:
    each = np.arange(16) - 7.5
    masks = np.arange(1 << 16)
    worths = ((masks[:, None] >> np.arange(16)) & 1) @ each
    assert shapley_from_worths(worths).tolist() == pytest.approx(each.tolist())
    assert banzhaf_from_worths(worths).tolist() == pytest.approx(each.tolist())


@pytest.mark.parametrize("value", [shapley_from_worths, banzhaf_from_worths])
@pytest.mark.parametrize(
    ("worths", "error", "field"),
    [
        (np.zeros(0), DataRefused, "worths: must have 2"),
        (np.zeros(1), DataRefused, "worths: must have 2"),
        (np.zeros(6), DataRefused, "worths: must have 2"),
        (np.zeros((2, 2)), DataRefused, "worths: must have one dimension"),
        (np.zeros(4, np.float32), DataRefused, "worths: must have type float64"),
        (np.array([0.0, math.nan]), DataRefused, "worths: must be finite"),
        ([0.0, 1.0], DataRefused, "worths: must be a numpy array"),
        (np.zeros(1 << 21), ConfigRefused, "at most 20 players, not 21"),
    ],
)
def test_worths_that_are_no_game_are_refused(
    value: Any, worths: Any, error: type[Exception], field: str
) -> None:
    with pytest.raises(error, match=field):
        value(worths)


def test_every_value_of_an_additive_game_is_what_each_brings() -> None:
    game = additive([1.0, -2.0, 0.0, 4.5])
    rng = np.random.default_rng(0)
    for found in (
        exact_shapley(game),
        exact_banzhaf(game),
        leave_one_out(game),
        sampled_shapley(game, 4, rng=rng),
    ):
        assert found.values.tolist() == pytest.approx([1.0, -2.0, 0.0, 4.5])
        assert found.standard_errors.tolist() == pytest.approx([0.0] * 4)


def test_leave_one_out_of_gloves() -> None:
    assert leave_one_out(gloves(1, 2)).values.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("make", [gloves(3, 5), majority(7), airport([1.0, 2.0, 5.0, 9.0, 9.5])])
def test_sampled_values_lie_within_their_errors(make: Game) -> None:
    rng = np.random.default_rng(7)
    for exact, sampled in (
        (exact_shapley(make), sampled_shapley(make, 800, rng=rng)),
        (exact_banzhaf(make), sampled_banzhaf(make, 4000, rng=rng)),
    ):
        gap = np.abs(sampled.values - exact.values)
        assert np.all(gap <= 4 * sampled.standard_errors + 1e-9)
        assert np.all(sampled.standard_errors <= 0.1 * np.max(np.abs(exact.values)) + 1e-9)


def test_too_few_coalitions_are_refused() -> None:
    with pytest.raises(ConfigRefused, match="more than 3 for 8 players"):
        sampled_banzhaf(majority(8), 3, rng=np.random.default_rng(0))


def test_sampling_is_seeded() -> None:
    one = sampled_banzhaf(gloves(2, 3), 20, rng=np.random.default_rng(1))
    two = sampled_banzhaf(gloves(2, 3), 20, rng=np.random.default_rng(1))
    other = sampled_banzhaf(gloves(2, 3), 20, rng=np.random.default_rng(2))
    assert one.values.tobytes() == two.values.tobytes()
    assert one.values.tobytes() != other.values.tobytes()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_utility_that_cannot_be_measured_is_an_error(bad: float) -> None:
    game = Game(3, lambda s: bad if s == frozenset({0, 2}) else 1.0)
    with pytest.raises(DataRefused, match=r"coalition \[0, 2\]"):
        exact_shapley(game)
    with pytest.raises(DataRefused, match=r"coalition \[0, 2\]"):
        sampled_banzhaf(game, 200, rng=np.random.default_rng(0))
    with pytest.raises(DataRefused, match=r"coalition \[0, 2\]"):
        leave_one_out(game)


def test_a_utility_that_raises_is_passed_on() -> None:
    def broken(coalition: frozenset[int]) -> float:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        exact_banzhaf(Game(2, broken))


def test_exact_values_refuse_many_players() -> None:
    with pytest.raises(ConfigRefused, match="at most 20"):
        exact_shapley(majority(21))
    with pytest.raises(ConfigRefused, match="at most 20"):
        exact_banzhaf(majority(21))


@pytest.mark.parametrize("players", [0, -1, 2.0, True, 10**9])
def test_a_game_needs_players(players: Any) -> None:
    with pytest.raises(ConfigRefused, match="players"):
        Game(players, lambda _s: 0.0)


@pytest.mark.parametrize("samples", [0, 1, -5, 2.5, 10**9])
def test_sampling_needs_samples(samples: Any) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigRefused, match="permutations"):
        sampled_shapley(majority(3), samples, rng=rng)
    with pytest.raises(ConfigRefused, match="coalitions"):
        sampled_banzhaf(majority(3), samples, rng=rng)


def test_the_fixed_share_game_leaves_the_others_shares() -> None:
    start, updates = np.array([1.0, 0.0]), [np.array([2.0, 0.0]), np.array([0.0, 4.0])]
    game = coalition_game(start, updates, lambda w: float(w[0] + 10 * w[1]))
    assert [game.worth(frozenset(s)) for s in ((), (0,), (1,), (0, 1))] == [1.0, 2.0, 21.0, 22.0]
    weighted = coalition_game(start, updates, lambda w: float(w[0] + 10 * w[1]), shares=[0.25, 0.75])
    assert weighted.worth(frozenset({1})) == 31.0


@pytest.mark.parametrize(
    ("updates", "shares", "error"),
    [
        ([], None, DataRefused),
        ([np.ones(3)], None, DataRefused),
        ([np.array([math.nan, 0.0])], None, DataRefused),
        ([np.ones(2, np.float32)], None, DataRefused),
        ([np.ones(2)], [0.5, 0.5], ConfigRefused),
        ([np.ones(2)], [1.5], ConfigRefused),
        ([np.ones(2)], [math.nan], ConfigRefused),
    ],
)
def test_a_bad_round_is_no_game(updates: Any, shares: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        coalition_game(np.zeros(2), updates, lambda _w: 0.0, shares=shares)


def test_size_value() -> None:
    assert size_value([1, 3, 0]).tolist() == [0.25, 0.75, 0.0]
    for bad in ([], [0, 0], [-1, 2], [1.5], [True]):
        with pytest.raises(ConfigRefused, match="sizes"):
            size_value(bad)  # type: ignore[arg-type]


def test_distance_to_mean() -> None:
    # the mean of 0, 0 and 3 is 1
    assert distance_to_mean([np.zeros(1), np.zeros(1), np.array([3.0])]).tolist() == [-1.0, -1.0, -2.0]
    for bad in ([], [np.ones(1), np.ones(2)], [np.array([math.inf])], [[1.0]]):
        with pytest.raises(DataRefused, match="updates"):
            distance_to_mean(bad)  # type: ignore[arg-type]
