"""Luck: values that both halves of the hidden set say were not earned."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galaxylearning.contribution import UNEARNED, UNEARNED_LATER, unearned
from galaxylearning.contribution.luck import FEWEST_LATER, is_against

UNITS = st.integers(-(2**62), 2**62)
COSINES = st.integers(-(2**20), 2**20)
ROUNDS = 10
ALONG: list[int | None] = [5] * ROUNDS
AGAINST: list[int | None] = [-5] * ROUNDS
LUCKY: list[int | None] = [40, 40, -9, -8, -9, -7, -9, -8, -9, -8]
"""Goes along in the first fifth, and on the whole; against the steps from then on."""


def test_luck_is_what_both_halves_of_the_hidden_set_call_so() -> None:
    # Of those that went along 10, 12 and 100 are worth something: their lower median is 12.
    sums = [[-1], [-1], [1], [0], [9], [-1], [1]]
    assert unearned([5, 6, 10, 12, 100, -7, 0], sums) == [UNEARNED, *[""] * 6]
    # Who went against the steps counts for no median, and little agreement is enough to be paid.
    assert unearned([5, 1, 1, 1, 12], [[-1], [-1], [-1], [0], [0]]) == [""] * 5
    assert unearned([5, 9], [[-1], [-1]]) == ["", ""]
    assert unearned([], []) == []


def test_in_a_cohort_many_of_which_went_against_the_steps_lucky_first_rounds_are_not_enough() -> None:
    cosines = [ALONG, ALONG, ALONG, ALONG, LUCKY, AGAINST, AGAINST]
    assert unearned([10, 20, 30, 40, 19, -3, -4], cosines) == [*[""] * 4, UNEARNED_LATER, "", ""]


@pytest.mark.parametrize(
    ("values", "cosines"),
    [
        # As much worth as the median of those that went along.
        ([10, 20, 30, 40, 20, -3, -4], [ALONG, ALONG, ALONG, ALONG, LUCKY, AGAINST, AGAINST]),
        # No more than a quarter of the cohort went against the steps.
        ([10, 20, 30, 40, 19, -3, -4, 25], [*[ALONG] * 4, LUCKY, AGAINST, AGAINST, ALONG]),
        # More of the cohort agree less.
        ([10, 20, 30, 40, 19, -3, -4], [*[[1] * ROUNDS] * 4, [90, *LUCKY[1:]], AGAINST, AGAINST]),
        # What follows is chance: below 0, but not by two standard errors.
        ([10, 20, 30, 40, 19, -3, -4], [*[ALONG] * 4, [40, 5, -9, 8, -9, 8, -9, 8, -9, 8], AGAINST, AGAINST]),
        # Three rounds say nothing of chance.
        ([10, 20, 30, 40, 19, -3, -4], [*[ALONG] * 4, [40, 5, -9, -8, -9, *[None] * 5], AGAINST, AGAINST]),
    ],
)
def test_everybody_else_keeps_what_it_is_worth(values: list[int], cosines: list[list[int | None]]) -> None:
    assert unearned(values, cosines) == [""] * len(values)


def test_who_agrees_as_well_as_the_middle_of_the_cohort_is_not_above_it() -> None:
    # Sums of 5 four times, and of -50 twice: with 5 of its own it is the lower median, with 6 above it.
    little: list[int | None] = [5, *[0] * 9]
    others = [little, little, little, little, AGAINST, AGAINST]
    lucky: list[int | None] = [32, *LUCKY[1:]]
    values = [10, 20, 30, 40, -3, -4, 19]
    assert unearned(values, [*others, lucky])[-1] == UNEARNED_LATER
    assert unearned(values, [*others, [33, *LUCKY[1:]]])[-1] == ""


def test_the_first_fifth_of_the_rounds_may_be_lucky_and_no_more() -> None:
    much: list[int | None] = [90, *[5] * 9]
    others = [much, much, much, much, AGAINST, AGAINST]
    longer: list[int | None] = [40, 40, 40, -9, -8, -9, -7, -9, -8, -9]
    values = [10, 20, 30, 40, -3, -4, 19]
    assert unearned(values, [*others, LUCKY])[-1] == UNEARNED_LATER
    assert unearned(values, [*others, longer])[-1] == ""


def test_rounds_without_an_update_say_nothing_and_keep_their_place() -> None:
    absent: list[int | None] = [None] * ROUNDS
    gaps: list[int | None] = [60, None, -9, None, -9, -8, None, -9, -8, -9]
    cosines = [ALONG, ALONG, ALONG, ALONG, gaps, AGAINST, AGAINST, absent, absent]
    assert unearned([10, 20, 30, 40, 19, -3, -4, 0, 0], cosines) == [*[""] * 4, UNEARNED_LATER, *[""] * 4]
    # Were the absent counted as part of the cohort, two of nine would not be many.
    assert sum(one or 0 for one in gaps) > 0


@given(st.lists(COSINES, max_size=20))
def test_against_is_two_standard_errors_below_nothing(cosines: list[int]) -> None:
    found = is_against(cosines)
    if len(cosines) < FEWEST_LATER:
        assert not found
        return
    mean, error = statistics.fmean(cosines), statistics.stdev(cosines) / math.sqrt(len(cosines))
    distance = mean + 2 * error
    if abs(distance) > 1e-6 * max(1.0, abs(mean)):
        assert found == (distance < 0)


@given(st.lists(st.tuples(UNITS, st.lists(COSINES, min_size=5, max_size=5)), max_size=12))
def test_luck_is_worth_less_than_somebody_who_went_along(owners: list[tuple[int, list[int]]]) -> None:
    values, cosines = [value for value, _ in owners], [own for _, own in owners]
    found = unearned(values, cosines)
    along = [value for value, own in owners if sum(own) >= 0]
    for reason, (value, own) in zip(found, owners, strict=True):
        if reason == UNEARNED:
            assert sum(own) < 0 < value < max(along) / 2
        if reason == UNEARNED_LATER:
            assert sum(own[1:]) < 0 < value < max(along)
    # It does not matter in which units agreement and value are counted, nor in which order data owners are.
    scaled = [[7 * one for one in own] for own in cosines]
    assert unearned([3 * value for value in values], scaled) == found
    assert unearned(values[::-1], cosines[::-1]) == found[::-1]
