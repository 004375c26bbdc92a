"""The robust rules: the table, numbers computed by hand, and what they refuse."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning.gate import gate
from galaxylearning.learning.rules import RULES, Ruled, apply_rule, rule_named, whole_shares
from galaxylearning.learning.rules_distances import MOST_COMPARED, squared_distances
from galaxylearning.messages.plan import RuleName

RNG = np.random.default_rng


def rows(*updates: Any) -> Any:
    return np.array(updates, np.int16)


def ruled(name: str, updates: Any, *, faulty: int = 1, reference: Any = None) -> Ruled:
    return apply_rule(name, updates, faulty=faulty, rng=RNG(0), reference=reference)


def step(found: Ruled) -> list[float]:
    values: list[float] = (found.total / found.divisor).tolist()
    return values


FIVE = rows((0, 0), (1, 2), (2, 1), (3, 3), (100, -90))


def test_terms_name_the_rules_of_the_table() -> None:
    assert set(get_args(RuleName)) == set(RULES)
    assert all(rule.name == name for name, rule in RULES.items())


def test_numbers_by_hand() -> None:
    assert step(ruled("mean", FIVE)) == [106 / 5, -84 / 5]
    assert step(ruled("trimmed-mean", FIVE)) == [2, 1]
    assert step(ruled("median", FIVE)) == [2, 1]
    assert step(ruled("median", FIVE[:4])) == [1.5, 1.5]
    # 2 neighbours each: (1, 2) has 2 and 5 to go, (2, 1) the same; of equals the earlier one
    assert step(ruled("krum", FIVE)) == [1, 2]
    assert step(ruled("multi-krum", FIVE)) == [1.5, 1.5]
    assert ruled("multi-krum", FIVE).weights.tolist() == [1, 1, 1, 1, 0]


def test_bulyan_by_hand() -> None:
    # 7 of 1 faulty: Krum picks 5, and in each coordinate the 3 closest to their median are averaged
    updates = rows((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (900, -900))
    found = ruled("bulyan", updates)
    assert found.weights.sum() == 5
    assert found.weights[6] == 0
    chosen = sorted(updates[found.weights > 0][:, 0].tolist())
    assert step(found) == [sum(chosen[1:4]) / 3] * 2


def test_fltrust_gives_every_update_the_reference_length() -> None:
    reference = np.array([100, 0])
    found = ruled("fltrust", rows((50, 0), (-300, 1), (0, 70)), faulty=0, reference=reference)
    assert found.weights[1:].tolist() == [0, 0]
    assert step(found) == [100.0, 0.0]
    assert found.stretch == 2.0  # the only one that counts is half as long


def test_the_gate_is_the_gate() -> None:
    reference = np.array([100, 20])
    found = ruled("gate", FIVE, reference=reference)
    assert found.weights.tolist() == gate(FIVE, reference).weights.tolist()
    assert found.divisor == found.weights.sum()


def test_coordinatewise_rules_deal_equal_shares() -> None:
    for name in ("median", "trimmed-mean", "nnm+trimmed-mean"):
        assert ruled(name, FIVE).weights.tolist() == [1] * 5


@pytest.mark.parametrize("name", ["geometric-median", "centred-clipping", "bucketing+geometric-median"])
def test_one_far_away_moves_little(name: str) -> None:
    near = rows(*[(10 + k, 20 - k) for k in range(9)], (14, 16))
    far = rows(*[(10 + k, 20 - k) for k in range(9)], (-30000, 30000))
    moved = np.abs(np.subtract(step(ruled(name, near)), step(ruled(name, far)))).max()
    assert moved < 25 < np.abs(np.subtract(step(ruled("mean", near)), step(ruled("mean", far)))).max()


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_the_same_bytes_whatever_the_order(name: str, kind: Any) -> None:
    rng = RNG(3)
    updates = rng.integers(-30000, 30000, (12, 5)).astype(kind)
    reference = rng.integers(-1000, 1000, 5)
    order = rng.permutation(12)
    first = apply_rule(name, updates, faulty=2, rng=RNG(0), reference=reference)
    if name == "bucketing+geometric-median":
        assert ruled(name, updates).total.tobytes() == ruled(name, updates).total.tobytes()
        return
    second = apply_rule(name, updates[order], faulty=2, rng=RNG(0), reference=reference)
    assert first.weights[order].tobytes() == second.weights.tobytes()
    assert first.total.tobytes() == second.total.tobytes()
    assert (first.divisor, first.stretch) == (second.divisor, second.stretch)


def test_distances_are_exact_for_the_largest_integers() -> None:
    low, high = -(2**31) + 1, 2**31 - 1
    found = squared_distances(np.array([[low] * 3, [high] * 3], np.int32))
    assert int(found[0, 1]) == 3 * (high - low) ** 2
    assert int(found[0, 0]) == 0


def test_shares_become_whole_weights() -> None:
    weights, divisor = whole_shares(np.array([0.5, 0.25, 0.0]), top=1000)
    assert (weights / divisor).tolist() == [0.5, 0.25, 0.0]
    assert whole_shares(np.zeros(2))[0].tolist() == [0, 0]


@pytest.mark.parametrize("name", sorted(RULES))
def test_one_update_too_few_is_refused(name: str) -> None:
    least = RULES[name].least(2)
    reference = np.array([3, 1])
    updates = RNG(0).integers(-9, 10, (least, 2)).astype(np.int16)
    apply_rule(name, updates, faulty=2, rng=RNG(0), reference=reference)
    with pytest.raises(UpdateRefused, match=f"at least {least}"):
        apply_rule(name, updates[1:], faulty=2, rng=RNG(0), reference=reference)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigRefused, match="rule: 'best' given; allowed: gate, mean"):
        rule_named("best")
    with pytest.raises(ConfigRefused, match="faulty"):
        ruled("median", FIVE, faulty=-1)
    with pytest.raises(UpdateRefused, match="reference: must be given for fltrust"):
        ruled("fltrust", FIVE)
    with pytest.raises(UpdateRefused, match="reference: must have 2 elements"):
        ruled("fltrust", FIVE, reference=np.array([1, 2, 3]))
    with pytest.raises(UpdateRefused, match="updates: must be a numpy array"):
        ruled("median", FIVE.astype(np.float32))
    with pytest.raises(UpdateRefused, match=f"at most {MOST_COMPARED}"):
        ruled("krum", np.zeros((MOST_COMPARED + 1, 1), np.int16))
    with pytest.raises(UpdateRefused, match="too large to be summed"):
        ruled("bucketing+geometric-median", np.full((9, 1), 2**31 - 1, np.int32))
