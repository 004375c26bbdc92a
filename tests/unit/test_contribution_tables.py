"""Twins as one player, and medians."""

from __future__ import annotations

from typing import Any

import pytest

from galaxylearning.contribution import median_table, merge_twins
from galaxylearning.errors import ConfigRefused, DataRefused, QuorumMissing

VALUES = {"a": 900, "b": 300, "c": 330, "d": 0}


def test_two_twins_get_what_one_of_them_would_have_had() -> None:
    # 4 identities, 3 players: shares grow from 1/4 to 1/3; the twins share the mean of 300 and 330
    assert merge_twins(VALUES, [frozenset("bc")]) == {"a": 1200, "b": 200, "c": 220, "d": 0}


def test_exactly_the_value_without_the_twin() -> None:
    alone = {"a": 12 * 40, "b": 12 * 25, "c": 12 * -7}  # share 1/3 of (1440, 900, -252)
    doubled = {"a": 9 * 40, "b": 9 * 25, "c": 9 * -7, "b2": 9 * 25}  # share 1/4 of the same
    merged = merge_twins(doubled, [frozenset({"b", "b2"})])
    assert merged["b"] + merged["b2"] == alone["b"]
    assert (merged["a"], merged["c"]) == (alone["a"], alone["c"])


def test_no_group_changes_nothing() -> None:
    assert merge_twins(VALUES, []) == VALUES


def test_weights_of_the_round_decide_the_shares() -> None:
    # W = 10 + 5 + 15 = 30; the twins b, c become one player of weight 10: W' = 20
    merged = merge_twins({"a": 100, "b": 60, "c": 180}, [frozenset("bc")], weights={"a": 10, "b": 5, "c": 15})
    assert merged == {"a": 150, "b": 45, "c": 135}


def test_a_twin_that_was_not_accepted_leaves_the_other_its_share() -> None:
    values, weights = {"a": 100, "b": 60, "c": 0}, {"a": 10, "b": 5, "c": 0}
    assert merge_twins(values, [frozenset("bc")], weights=weights) == values
    nobody = {"a": 10, "b": 0, "c": 0}
    assert merge_twins({"a": 100, "b": 0, "c": 0}, [frozenset("bc")], weights=nobody)["a"] == 100


def test_a_cohort_of_twins_alone_is_one_player() -> None:
    assert merge_twins({"a": 10, "b": 10}, [frozenset("ab")]) == {"a": 10, "b": 10}


@pytest.mark.parametrize(
    ("values", "groups", "weights", "error"),
    [
        (VALUES, [frozenset("ax")], None, DataRefused),
        (VALUES, [frozenset("a")], None, ConfigRefused),
        (VALUES, [frozenset()], None, ConfigRefused),
        (VALUES, [frozenset("ab"), frozenset("bc")], None, ConfigRefused),
        (VALUES, [], {"a": 1}, ConfigRefused),
        (VALUES, [], {"a": 1, "b": 1, "c": 1, "d": -1}, ConfigRefused),
        ({"a": 1.5}, [], None, DataRefused),
        ({"a": True}, [], None, DataRefused),
        ({"a": 2**63}, [], None, DataRefused),
    ],
)
def test_bad_groups_are_refused(values: Any, groups: Any, weights: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        merge_twins(values, groups, weights=weights)


def test_the_lower_median_of_each_player() -> None:
    tables = [{"a": 5, "b": -1}, {"b": 7, "a": 1}, {"a": 3, "b": 7}]
    assert median_table(tables) == {"a": 3, "b": 7}
    assert median_table(tables[:2]) == {"a": 1, "b": -1}
    assert median_table(tables[:1]) == tables[0]


def test_fewer_than_half_lying_stays_between_the_honest() -> None:
    tables = [{"a": 10}, {"a": 2**62}, {"a": 12}, {"a": -(2**62)}, {"a": 11}]
    assert median_table(tables) == {"a": 11}


def test_no_table_is_no_quorum() -> None:
    with pytest.raises(QuorumMissing):
        median_table([])


@pytest.mark.parametrize("other", [{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 2}, {"a": 1, "b": 0.5}])
def test_tables_must_name_the_same_players(other: Any) -> None:
    with pytest.raises(DataRefused, match=r"tables\[1\]"):
        median_table([{"a": 1, "b": 2}, other])
