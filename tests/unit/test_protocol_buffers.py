"""How far buffers may move, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from galaxylearning.learning.vectors import I32
from galaxylearning.protocol.buffers import BUFFER_EXCESS, moved_too_far

REFERENCE = np.array([10, 0], np.int32)


def lengths(*values: int) -> I32:
    return np.array([[0, value] for value in values], np.int32)


def test_four_times_the_usual_length_is_allowed_and_no_more() -> None:
    assert BUFFER_EXCESS == 4
    everybody = np.ones(4, np.bool_)
    assert moved_too_far(lengths(10, 12, 8, 40), everybody, REFERENCE).tolist() == [False] * 4
    assert moved_too_far(lengths(10, 12, 8, 41), everybody, REFERENCE).tolist() == [False] * 3 + [True]


def test_who_does_not_count_anyway_is_not_judged() -> None:
    accepted = np.array([True, True, True, False])
    assert not moved_too_far(lengths(10, 12, 8, 9_999), accepted, REFERENCE).any()


def test_as_far_as_the_hidden_sets_own_is_never_too_far() -> None:
    far = np.array([1_000, 0], np.int32)
    assert not moved_too_far(lengths(1, 1, 4_000), np.ones(3, np.bool_), far).any()
    assert moved_too_far(lengths(1, 1, 4_001), np.ones(3, np.bool_), far).tolist() == [False, False, True]


def test_who_is_left_of_a_round_by_chance_does_not_say_what_is_usual() -> None:
    changes = lengths(9, 10, 11, 12, 10, 500, 501, 502)
    accepted = np.array([False, True, False, False, False, True, True, True])
    wanted = [False] * 5 + [True] * 3
    assert moved_too_far(changes, accepted, REFERENCE).tolist() == wanted


@pytest.mark.parametrize("accepted", [[False, False], [True, True]])
def test_models_without_buffers_have_none_that_moved(accepted: list[bool]) -> None:
    none = np.zeros(0, np.int32)
    assert moved_too_far(np.zeros((2, 0), np.int32), np.array(accepted), none).tolist() == [False, False]
