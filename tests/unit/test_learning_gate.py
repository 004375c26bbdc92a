"""The gate: who counts, how much, and why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning import gate
from galaxylearning.learning.gate import AGAINST_REFERENCE, NO_REFERENCE, TOO_LARGE, ZERO_UPDATE
from galaxylearning.learning.vectors import exact_dot


def i32(*values: int) -> Any:
    return np.array(values, np.int32)


def i64(*values: int) -> Any:
    return np.array(values, np.int64)


REFERENCE = i64(100, 0)


def test_weights_bound_the_norm_by_the_median() -> None:
    decisions = gate([i32(10, 0), i32(20, 0), i32(40, 0)], REFERENCE)
    assert [d.weight for d in decisions] == [15, 15, 8]  # 15 * 20 / 40 = 7.5, rounded half up
    assert all(d.accepted and d.reason is None for d in decisions)
    assert [d.norm for d in decisions] == [10.0, 20.0, 40.0]
    assert [d.cosine for d in decisions] == [1.0, 1.0, 1.0]


def test_attackers_are_named() -> None:
    honest = [i32(30, 5), i32(28, -4), i32(33, 9)]
    flipped, zero, sideways, huge = i32(-90, 0), i32(0, 0), i32(0, 50), i32(3_000_000, 0)
    decisions = gate([*honest, flipped, zero, sideways, huge], REFERENCE)
    assert [d.accepted for d in decisions] == [True, True, True, False, False, False, False]
    assert [d.reason for d in decisions[3:]] == [AGAINST_REFERENCE, ZERO_UPDATE, AGAINST_REFERENCE, TOO_LARGE]
    assert [d.weight for d in decisions[3:]] == [0, 0, 0, 0]
    assert decisions[3].cosine == -1.0


def test_the_median_is_over_the_positive_ones_alone() -> None:
    decisions = gate([i32(10, 0), i32(-1000, 0), i32(-1000, 1), i32(-1000, 2), i32(20, 0)], REFERENCE)
    assert [d.weight for d in decisions] == [15, 0, 0, 0, 8]


def test_the_order_of_the_updates_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    updates = [rng.integers(-100, 100, 8).astype(np.int32) for _ in range(9)]
    reference = rng.integers(-1000, 1000, 8)
    order = rng.permutation(9)
    straight, shuffled = gate(updates, reference), gate([updates[i] for i in order], reference)
    assert tuple(straight[i] for i in order) == shuffled


def test_a_zero_reference_accepts_nothing() -> None:
    assert [d.reason for d in gate([i32(1, 2), i32(0, 0)], i64(0, 0))] == [NO_REFERENCE, ZERO_UPDATE]


def test_an_empty_cohort_is_decided() -> None:
    assert gate([], REFERENCE) == ()


def test_extreme_integers_are_exact() -> None:
    top, bottom = 2**31 - 1, -(2**31)
    update, reference = i32(top, bottom, top), i64(2**63 - 1, -(2**63), 5)
    assert exact_dot(update, reference) == top * (2**63 - 1) + bottom * -(2**63) + top * 5
    assert exact_dot(reference, reference) == (2**63 - 1) ** 2 + 2**126 + 25
    assert gate([update], reference)[0].weight == 15


def test_one_unit_of_product_decides() -> None:
    # the two products differ by one in 2**93: floats would call both zero
    reference = i64(2**62, -(2**62), 1)
    decisions = gate([i32(2**30, 2**30, 1), i32(2**30, 2**30, 0)], reference)
    assert [d.accepted for d in decisions] == [True, False]


@pytest.mark.parametrize(
    "update",
    [i32(1), i32(1, 2, 3), i64(1, 2), np.ones(2, np.float32), np.ones((1, 2), np.int32), [1, 2], None],
)
def test_a_malformed_update_is_refused(update: Any) -> None:
    with pytest.raises(UpdateRefused, match=r"updates\[1\]"):
        gate([i32(1, 2), update], REFERENCE)


def test_a_malformed_reference_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="reference"):
        gate([i32(1, 2)], np.ones(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, 2**21])
def test_a_bad_max_weight_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigRefused, match="max_weight"):
        gate([i32(1, 2)], REFERENCE, max_weight=weight)
