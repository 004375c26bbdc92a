"""The path value on functions whose integral is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from galaxylearning.contribution import VALUES, RoundView, path_value, value_named
from galaxylearning.errors import ConfigRefused, DataRefused

F64 = npt.NDArray[np.float64]


def bowl(params: F64) -> F64:
    """Two blocks whose losses are |w|^2 and 3 |w|^2: on average 2 |w|^2."""
    return np.array([2 * params, 6 * params])


START = np.array([1.0, 1.0])
UPDATES = [np.array([-1.0, 0.0]), np.array([0.0, -0.5]), np.array([0.0, 0.0])]
SHARES = [0.25, 0.25, 0.5]
STEP = np.array([-0.25, -0.125])


def loss(params: F64) -> float:
    return 2 * float(np.sum(params * params))


def test_by_hand_and_sums_to_the_gain() -> None:
    found = path_value(bowl, START, STEP, UPDATES, SHARES)
    # the gradient is linear, so its mean along the path is the one at the middle: 4 * (0.875, 0.9375)
    assert found.values.tolist() == pytest.approx([0.25 * 3.5, 0.25 * 0.5 * 3.75, 0.0])
    assert found.gain_estimate == pytest.approx(loss(START) - loss(START + STEP))
    assert float(np.sum(found.values)) == pytest.approx(found.gain_estimate)


def test_standard_errors_by_hand() -> None:
    found = path_value(bowl, START, STEP, UPDATES, SHARES)
    # the blocks give half and one and a half times the value: std = v / sqrt(2), over sqrt(2)
    assert found.standard_errors.tolist() == pytest.approx((found.values / 2).tolist())


def test_what_was_sent_last_round_is_worth_nothing_again() -> None:
    replay = np.array([-0.3, -0.1])
    updates = [UPDATES[0], replay, 5 * replay]
    shares = [0.5, 0.25, 0.25]
    plain = path_value(bowl, START, STEP, updates, shares)
    novel = path_value(bowl, START, STEP, updates, shares, previous_step=replay * 7)
    assert np.all(plain.values > 0.1)
    assert novel.values[1:].tolist() == pytest.approx([0.0, 0.0], abs=1e-15)
    assert novel.standard_errors[1:].tolist() == pytest.approx([0.0, 0.0], abs=1e-15)
    assert novel.gain_estimate == plain.gain_estimate


def test_a_zero_previous_step_takes_nothing_away() -> None:
    plain = path_value(bowl, START, STEP, UPDATES, SHARES)
    same = path_value(bowl, START, STEP, UPDATES, SHARES, previous_step=np.zeros(2))
    assert same.values.tobytes() == plain.values.tobytes()


def test_the_gradient_is_asked_once_per_midpoint_whatever_the_cohort() -> None:
    asked: list[list[float]] = []

    def gradient(params: F64) -> F64:
        asked.append(params.tolist())
        return bowl(params)

    path_value(gradient, np.zeros(2), np.array([1.0, 0.0]), [np.ones(2)] * 50, [0.02] * 50, midpoints=4)
    assert [point[0] for point in asked] == [0.125, 0.375, 0.625, 0.875]


def call(**changes: Any) -> None:
    arguments: dict[str, Any] = {"gradient_blocks": bowl, "start": START, "step": STEP, "updates": UPDATES}
    arguments |= {"shares": SHARES} | changes
    path_value(**arguments)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start": np.array([math.nan, 0.0])}, "start"),
        ({"start": np.ones(2, np.float32)}, "start"),
        ({"step": np.ones(3)}, "step"),
        ({"step": np.array([math.inf, 0.0])}, "step"),
        ({"updates": []}, "updates"),
        ({"updates": [*UPDATES[:2], np.array([0.0, math.nan])]}, r"updates\[2\]"),
        ({"updates": [*UPDATES[:2], np.ones((2, 1))]}, r"updates\[2\]"),
        ({"previous_step": np.ones(3)}, "previous_step"),
        ({"previous_step": np.array([0.0, math.inf])}, "previous_step"),
        ({"gradient_blocks": lambda w: w}, "midpoint 0"),
        ({"gradient_blocks": lambda _w: np.ones((1, 2))}, "at least 2 blocks"),
        ({"gradient_blocks": lambda _w: np.ones((2, 3))}, "at least 2 blocks"),
        ({"gradient_blocks": lambda _w: np.full((2, 2), math.nan)}, "finite"),
        ({"gradient_blocks": lambda _w: np.ones((2, 2), np.float32)}, "float64"),
    ],
)
def test_bad_vectors_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(DataRefused, match=field):
        call(**changes)


def test_blocks_must_not_change_along_the_path() -> None:
    sizes = iter([2, 3, 2, 2, 2])
    with pytest.raises(DataRefused, match="midpoint 1"):
        call(gradient_blocks=lambda _w: np.ones((next(sizes), 2)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shares": [0.5, 0.5]}, "shares"),
        ({"shares": [0.5, 0.5, 0.5]}, "sum to 1"),
        ({"shares": [1.5, -0.5, 0.0]}, "shares"),
        ({"shares": [math.nan, 0.5, 0.5]}, "shares"),
        ({"shares": [0.0, 0.0, 0.0]}, "sum to 1"),
        ({"midpoints": 0}, "midpoints"),
        ({"midpoints": 2.5}, "midpoints"),
        ({"midpoints": 10**9}, "midpoints"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        call(**changes)


def view(sizes: list[int] | None = None) -> RoundView:
    return RoundView(START, STEP, UPDATES, SHARES, bowl, lambda w: -loss(w), sizes=sizes)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_named_value_measures_a_round(name: str) -> None:
    found = value_named(name)(view(sizes=[2, 1, 1]), np.random.default_rng(0))
    assert found.values.shape == found.standard_errors.shape == (3,)
    if name not in {"size", "distance-to-mean"}:
        assert found.values[0] > found.values[1] > 0
        assert abs(found.values[2]) <= 4 * found.standard_errors[2] + 1e-12


def test_exact_values_of_the_round_agree_with_the_path() -> None:
    rng = np.random.default_rng(0)
    path = value_named("path")(view(), rng).values
    for name in ("banzhaf", "shapley"):
        # separable quadratic, and each update along its own axis: the games agree exactly
        assert value_named(name)(view(), rng).values.tolist() == pytest.approx(path.tolist())


def test_an_unknown_value_lists_the_known_ones() -> None:
    with pytest.raises(ConfigRefused, match="leave-one-out"):
        value_named("accuracy")


def test_size_needs_the_sizes() -> None:
    with pytest.raises(ConfigRefused, match="sizes"):
        value_named("size")(view(), np.random.default_rng(0))
