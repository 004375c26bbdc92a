"""Twins from projections: what lasts of a difference, how many are asked for, and who is linked."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from galaxylearning.contribution import SentUpdates, lasting_difference, twin_groups, twin_projections
from galaxylearning.errors import ConfigRefused

F64 = npt.NDArray[np.float64]
NAMES = tuple("abcdefgh")


def rounds_of(first: list[list[float]], second: list[list[float]]) -> list[SentUpdates[str]]:
    return [SentUpdates(("a", "b"), np.array(pair, np.float64)) for pair in zip(first, second, strict=True)]


def test_a_difference_that_lasts_is_between_rounds() -> None:
    # Unit vectors; the differences are (0, 2), (0, 2), (0.8, 1.6): computed by hand below.
    found = rounds_of([[0, 3], [0, 3], [8, 6]], [[0, -1], [0, -1], [0, -1]])
    gaps = np.array([[0, 2], [0, 2], [0.8, 1.6]])
    mean = gaps.mean(axis=0)
    expected = 3 * (mean @ mean) / (((gaps - mean) ** 2).sum() / 2)
    assert lasting_difference(found, "a", "b") == pytest.approx(expected)
    assert lasting_difference(found, "b", "a") == pytest.approx(expected)


def test_a_difference_that_changes_sign_does_not_last() -> None:
    found = rounds_of([[1, 0], [0, 1], [1, 0], [0, 1]], [[0, 1], [1, 0], [0, 1], [1, 0]])
    assert lasting_difference(found, "a", "b") == 0.0


def test_identical_updates_have_no_difference() -> None:
    found = rounds_of([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]])
    assert lasting_difference(found, "a", "b") == 0.0


def test_a_constant_difference_without_noise_is_infinite() -> None:
    found = rounds_of([[1, 0]] * 3, [[0, 1]] * 3)
    assert lasting_difference(found, "a", "b") == math.inf


@pytest.mark.parametrize("second", [[[1.0, 2], [3.0, 4]], [[1.0, 2], [3.0, 4], [0.0, 0]]])
def test_two_rounds_say_nothing(second: list[list[float]]) -> None:
    found = rounds_of([[1.0, 2], [3.0, 4], [5.0, 6]][: len(second)], second)
    assert lasting_difference(found, "a", "b") == math.inf


@pytest.mark.parametrize(
    ("budget", "rounds", "expected"),
    [(100, 10, 16), (16, 10, 16), (15, 10, 15), (12, 8, 12), (100, 7, 32), (20, 5, 20)],
)
def test_how_many_projections_are_asked_for(budget: int, rounds: int, expected: int) -> None:
    assert twin_projections(budget, rounds) == expected


@pytest.mark.parametrize(("budget", "rounds"), [(11, 10), (0, 10), (-5, 10), (100, 4), (100, 1)])
def test_too_little_for_a_search(budget: int, rounds: int) -> None:
    assert twin_projections(budget, rounds) == 0


def test_projections_of_no_job() -> None:
    with pytest.raises(ConfigRefused, match="rounds"):
        twin_projections(100, 0)


def projected(noise: float, lean: float) -> list[SentUpdates[str]]:
    """Sixteen +-1 projections of 2,000 parameters, 10 rounds; b has a's data, c's differ by ``lean``."""
    rng = np.random.default_rng(7)
    signs = rng.choice([-1.0, 1.0], (16, 2000))
    own = rng.normal(size=(len(NAMES), 2000))
    own[1] = own[0]
    own[2] = own[0] + lean * rng.normal(size=2000)
    history = []
    for _ in range(10):
        common = rng.normal(size=2000)
        sent = common + 0.5 * own + noise * rng.normal(size=own.shape)
        history.append(SentUpdates(NAMES, sent @ signs.T))
    return history


def test_one_data_set_under_two_names_is_found_in_its_projections() -> None:
    assert twin_groups(projected(0.3, 1.0)) == (frozenset("ab"),)


def test_data_that_are_nearly_alike_are_told_apart_by_the_difference_that_lasts() -> None:
    history = projected(0.05, 0.15)
    assert twin_groups(history, shortfall=1e6, difference=1e6) == (frozenset("abc"),)
    assert twin_groups(history, shortfall=1e6) == (frozenset("ab"),)


@pytest.mark.parametrize("difference", [-1.0, math.nan, 2e6])
def test_a_threshold_out_of_range_is_refused(difference: float) -> None:
    with pytest.raises(ConfigRefused, match="difference"):
        twin_groups(projected(0.3, 1.0), difference=difference)
