"""The gate: who counts, how much, and why not."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning import gate
from galaxylearning.learning.exact import exact_products, exact_squares
from galaxylearning.learning.gate import (
    AGAINST_REFERENCE,
    HARDLY_ALONG,
    NO_REFERENCE,
    REASONS,
    TOO_LARGE,
    ZERO_UPDATE,
    GateTable,
)
from galaxylearning.learning.vectors import exact_dot


def i32(*values: int) -> Any:
    return np.array(values, np.int32)


def i64(*values: int) -> Any:
    return np.array(values, np.int64)


REFERENCE = i64(100, 0)


def rows(*updates: Any) -> Any:
    return np.array(updates, np.int32)


def reasons(table: GateTable) -> list[str]:
    return [REASONS[code] for code in table.reasons]


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_weights_fall_with_the_square_of_the_norm_over_the_median(kind: Any) -> None:
    table = gate(rows((10, 0), (20, 0), (40, 0)).astype(kind), REFERENCE)
    assert table.weights.tolist() == [15, 15, 4]  # 15 * (20 / 40)**2 = 3.75
    assert table.accepted.all()
    assert reasons(table) == ["", "", ""]
    assert table.norms.tolist() == [10.0, 20.0, 40.0]
    assert table.cosines.tolist() == [1.0, 1.0, 1.0]


def test_attackers_are_named() -> None:
    honest = [(30, 5), (28, -4), (33, 9)]
    flipped, zero, sideways, huge = (-90, 0), (0, 0), (0, 50), (3_000_000, 0)
    table = gate(rows(*honest, flipped, zero, sideways, huge), REFERENCE)
    assert table.accepted.tolist() == [True, True, True, False, False, False, False]
    assert reasons(table)[3:] == [AGAINST_REFERENCE, ZERO_UPDATE, AGAINST_REFERENCE, TOO_LARGE]
    assert table.weights[3:].tolist() == [0, 0, 0, 0]
    assert table.cosines[3] == -1.0


def test_who_points_elsewhere_than_the_best_quarter_weighs_less() -> None:
    # cosines 1, 0.8, 0.6, 0.01: the upper quartile is 0.8; 15 * 0.6 / 0.8 = 11.25, and 15 / 80 rounds to 0
    table = gate(rows((100, 0), (80, 60), (60, 80), (1, 100)), REFERENCE)
    assert table.weights.tolist() == [15, 15, 11, 0]
    assert reasons(table) == ["", "", "", HARDLY_ALONG]


def test_norm_and_cosine_both_count() -> None:
    # about half the median's cosine at twice its norm
    table = gate(rows((60, 80), (100, 0), (60, -80), (60, 190), (60, 190)), REFERENCE, max_weight=1000)
    cosine = 60 / math.hypot(60, 190)
    assert table.weights.tolist()[:3] == [1000, 1000, 1000]
    expected = round(1000 * (100 / math.hypot(60, 190)) ** 2 * (cosine / 0.6))
    assert table.weights[3] == table.weights[4] == expected == 126


def test_long_updates_that_point_elsewhere_do_not_make_length_usual() -> None:
    table = gate(rows((10, 0), (-1000, 0), (-1000, 1), (-1000, 2), (20, 0)), REFERENCE)
    assert table.weights.tolist() == [15, 0, 0, 0, 4]


def test_who_is_left_of_a_round_by_chance_does_not_say_what_is_usual() -> None:
    # Of eight honest updates the noise of the hidden set's step leaves two; three boosted ones are positive.
    honest = [(1, 9), (1, -9), (-1, 9), (-1, -9), (-2, 9), (-2, -9), (-3, 9), (-3, -9)]
    table = gate(rows(*honest, (30, 0), (30, 1), (30, 2)), REFERENCE)
    assert table.weights.tolist()[:2] == [2, 2]  # their cosine is a ninth of the usual one
    assert table.weights.tolist()[8:] == [1, 1, 1]  # 15 * (9.2 / 30)**2 = 1.4


def test_zeros_do_not_make_shortness_usual() -> None:
    table = gate(rows((0, 0), (0, 0), (0, 0), (10, 0), (20, 0)), REFERENCE)
    assert table.weights.tolist() == [0, 0, 0, 15, 4]


def test_the_order_of_the_updates_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    updates = rng.integers(-100, 100, (9, 8)).astype(np.int16)
    reference = rng.integers(-1000, 1000, 8)
    order = rng.permutation(9)
    straight, shuffled = gate(updates, reference), gate(updates[order], reference)
    for field in ("weights", "cosines", "norms", "reasons"):
        assert getattr(straight, field)[order].tobytes() == getattr(shuffled, field).tobytes()


def test_threads_change_nothing() -> None:
    rng = np.random.default_rng(0)
    updates = rng.integers(-100, 100, (300, 2000)).astype(np.int16)
    reference = rng.integers(-1000, 1000, 2000)
    with ThreadPoolExecutor(2) as threads:
        one, two = gate(updates, reference), gate(updates, reference, spread=threads.map)
    assert one.weights.tobytes() == two.weights.tobytes()
    assert one.cosines.tobytes() == two.cosines.tobytes()


def test_a_zero_reference_accepts_nothing() -> None:
    table = gate(rows((1, 2), (0, 0)), i64(0, 0))
    assert reasons(table) == [NO_REFERENCE, ZERO_UPDATE]
    assert not table.accepted.any()


def test_an_empty_cohort_is_decided() -> None:
    table = gate(np.zeros((0, 2), np.int16), REFERENCE)
    assert table.weights.shape == table.cosines.shape == table.norms.shape == table.reasons.shape == (0,)


def test_extreme_integers_are_exact() -> None:
    top, bottom = 2**31 - 1, -(2**31)
    update, reference = i32(top, bottom, top), i64(2**63 - 1, -(2**63), 5)
    product = top * (2**63 - 1) + bottom * -(2**63) + top * 5
    assert exact_dot(update, reference) == product
    assert exact_dot(reference, reference) == (2**63 - 1) ** 2 + 2**126 + 25
    assert exact_products(update[None], reference[None])[0, 0] == product
    assert exact_squares(update[None])[0] == 2 * top**2 + bottom**2
    assert gate(rows(update), reference).weights.tolist() == [15]


def test_one_unit_of_product_decides() -> None:
    # the two products differ by one in 2**93: floats would call both zero
    reference = i64(2**62, -(2**62), 1)
    table = gate(rows((2**30, 2**30, 1), (2**30, 2**30, 0)), reference)
    assert table.accepted.tolist() == [True, False]


def test_a_weight_of_many_bits_is_exact() -> None:
    # 4 * top**2 * median**2 passes 63 bits: the quotients are taken in Python's integers
    top, small, large = 2**20, 2**31 - 2, 2**31 - 1
    found = gate(rows((small, 0, 0), (small, small, large)), i64(1, 0, 0), max_weight=top).weights
    square = 2 * small**2 + large**2
    assert found.tolist() == [top, (math.isqrt(4 * top * top * small**4 // square**2) + 1) // 2]


@pytest.mark.parametrize(
    "updates",
    [
        np.ones((2, 1), np.int32),
        np.ones((2, 3), np.int16),
        np.ones((2, 2), np.int64),
        np.ones((2, 2), np.float32),
        np.ones(2, np.int32),
        [[1, 2]],
        None,
    ],
)
def test_malformed_updates_are_refused(updates: Any) -> None:
    with pytest.raises(UpdateRefused, match="updates"):
        gate(updates, REFERENCE)


def test_a_malformed_reference_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="reference"):
        gate(rows((1, 2)), np.ones(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, 2**21])
def test_a_bad_max_weight_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigRefused, match="max_weight"):
        gate(rows((1, 2)), REFERENCE, max_weight=weight)
