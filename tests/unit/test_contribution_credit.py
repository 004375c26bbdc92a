"""Credit handed down and rejections charged: by hand, and the laws of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxylearning.contribution import charge, counted, handed_down
from galaxylearning.errors import DataRefused

UNITS = st.integers(-(2**50), 2**50)
ROUNDS = st.lists(st.tuples(st.dictionaries(st.sampled_from("abcde"), UNITS, max_size=5), UNITS), max_size=8)


def test_a_rest_goes_to_those_who_made_the_step_before() -> None:
    values = [{"a": 30, "b": 10}, {"a": 2, "b": 0}, {"a": 0, "b": 4}]
    # 42 and 10 hand 26 down as 21 and 5: 52 times 21 / 26.
    assert handed_down(values, [0, 40, 0]) == [
        {"a": 30, "b": 10},
        {"a": 2 + 30, "b": 0 + 10},
        {"a": 0, "b": 4},
    ]


def test_credit_travels_from_step_to_step() -> None:
    values = [{"a": 6, "b": 2}, {"a": 0, "b": 8}, {"a": 1, "b": 1}]
    # After the second round a has 6 and b has 2 + 8: the third's rest of 32 goes 12 to 20.
    assert handed_down(values, [0, 8, 32])[2] == {"a": 1 + 12, "b": 1 + 20}


def test_who_repeats_the_last_step_is_handed_nothing() -> None:
    found = handed_down([{"a": 10}, {"a": 1, "free": 0}, {"a": 1, "free": 0}], [0, 50, 70])
    assert sum(scores.get("free", 0) for scores in found) == 0
    assert [scores["a"] for scores in found] == [10, 51, 71]


def test_who_is_away_keeps_what_its_step_was_worth() -> None:
    found = handed_down([{"a": 10, "b": 10}, {"a": 0}, {"a": 0, "b": 0}], [0, 8, 8])
    assert found[1:] == [{"a": 4, "b": 4}, {"a": 4, "b": 4}]


def test_a_step_that_overshot_is_charged_to_its_makers() -> None:
    assert handed_down([{"a": 9, "b": 3}, {"a": 5, "b": 5}], [0, -8])[1] == {"a": -1, "b": 3}


def test_a_round_in_which_nothing_counted_hands_nothing_down_and_forgets_nothing() -> None:
    assert handed_down([{"a": 3}, {}, {"b": 1}], [0, 5, 7]) == [{"a": 3}, {}, {"b": 1, "a": 7}]


def test_a_round_that_did_not_move_the_model_forgets_nothing() -> None:
    assert handed_down([{"a": 3, "b": 1}, {"a": 0, "b": 0}, {"b": 0}], [0, 0, 8])[2] == {"b": 2, "a": 6}


def test_a_rest_without_credit_is_nobodys() -> None:
    assert handed_down([{"a": 3, "b": -1}], [10]) == [{"a": 3, "b": -1}]
    assert handed_down([{"a": -3}, {"a": 1}], [0, 10]) == [{"a": -3}, {"a": 1}]


def test_every_round_has_its_rest() -> None:
    with pytest.raises(DataRefused, match="rests"):
        handed_down([{"a": 1}], [])


@given(ROUNDS)
def test_nothing_is_lost_and_nothing_made_up(rounds: list[tuple[dict[str, int], int]]) -> None:
    values, rests = [own for own, _ in rounds], [rest for _, rest in rounds]
    found = handed_down(values, rests)
    credited: dict[str, int] = {}
    for own, rest, whole in zip(values, rests, found, strict=True):
        given_out = sum(whole.values()) - sum(own.values())
        assert given_out == (rest if own and credited else 0)
        for player, value in whole.items():
            if player not in credited:
                assert value == own.get(player, 0)
        credited = {player: value for player, value in whole.items() if value > 0} or credited


@pytest.mark.parametrize(
    ("accepted", "cost"), [([], 0), ([5], 5), ([-5], 0), ([1, 9], 1), ([9, 1, 4], 4), ([-3, -2, 7], 0)]
)
def test_a_rejection_costs_the_lower_median(accepted: list[int], cost: int) -> None:
    assert charge(accepted) == cost


@pytest.mark.parametrize(
    ("values", "charges", "worth"),
    [
        ([], [], 0),
        ([], [3], 0),
        ([5], [], 5),
        ([5], [2], 3),
        ([5], [2, 9], 0),
        ([-5], [1], -5),
        ([3, -1, 2], [1], 3),
        ([3, -1, 2], [4, 4], -1),
    ],
)
def test_charges_take_gains_and_never_more(values: list[int], charges: list[int], worth: int) -> None:
    assert counted(values, charges) == worth
    assert counted(values[::-1], charges[::-1]) == worth


@given(values=st.lists(UNITS, max_size=30), charges=st.lists(st.integers(0, 2**50), max_size=30))
def test_charges_only_ever_take_away(values: list[int], charges: list[int]) -> None:
    worth = counted(values, charges)
    assert worth <= counted(values, charges[:-1]) <= sum(values)
    assert worth >= sum(min(value, 0) for value in values)
