"""The fairness bench's own arithmetic: rows, intervals, ranks; and one attack that must not pay."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks is no installed package: it lies beside the tests

from benchmarks.fairness import schemes  # noqa: E402
from benchmarks.fairness.cohorts import Setting, play  # noqa: E402
from benchmarks.fairness.table import mean_row, most_row, rate_row, ratio_row  # noqa: E402
from benchmarks.fairness.truths import ranks_agree  # noqa: E402


def test_a_ratio_is_of_sums_and_its_interval_of_cohorts() -> None:
    row = ratio_row("gain", [1.0, 3.0], [2.0, 2.0], at_most=1.05)
    assert (row.value, row.met, row.seeds) == (1.0, True, 2)
    assert (row.low, row.high) == (0.5, 1.5)
    assert ratio_row("gain", [3.0], [2.0], at_most=1.05).met is False
    assert ratio_row("gain", [3.0], [2.0]).met is None


def test_a_mean_reaches_its_target_or_comes_near_it() -> None:
    assert mean_row("x", [0.9, 1.0], at_least=0.95).met is True
    assert mean_row("x", [0.9, 0.9], at_least=0.95).met is False
    assert mean_row("x", [0.995, 1.001], near=(1.0, 0.01)).met is True
    assert mean_row("x", [1.1, 1.1], near=(1.0, 0.01)).met is False


def test_a_rate_has_an_interval_even_when_nothing_happened() -> None:
    row = rate_row("wrong", [False] * 100, at_most=0.01)
    assert (row.value, row.low, row.met) == (0.0, 0.0, True)
    assert 0.03 < row.high < 0.04
    assert rate_row("wrong", [True] + [False] * 9, at_most=0.01).met is False


def test_the_largest_counts() -> None:
    assert most_row("units", [0, 0], at_most=0).met is True
    assert most_row("units", [0, 1], at_most=0).met is False


def test_equal_values_share_their_rank() -> None:
    assert ranks_agree(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 9.0])) == pytest.approx(1.0)
    assert ranks_agree(np.array([1.0, 2.0, 3.0]), np.array([9.0, 5.0, 1.0])) == pytest.approx(-1.0)
    # Ranks 1.5, 1.5, 3 against 1, 2, 3.
    expected = np.corrcoef([1, 2, 3], [1.5, 1.5, 3])[0, 1]
    assert ranks_agree(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 7.0])) == pytest.approx(expected)


def test_a_replay_earns_nothing_and_values_sum_to_the_gain_in_masked_mode() -> None:
    played = play(Setting("breast-cancer", "iid", owners=6, rounds=5), 3, {1: "last-step"}, privacy="masked")
    worth = schemes.paid(played)
    pays = schemes.pay(worth)
    honest = [pays[who] for who, owner in zip(played.accounts, played.played_by, strict=True) if owner != 1]
    assert pays[played.behind(1)[0]] < 0.02 * float(np.median(honest))
    plain = schemes.plain_path(played)
    assert sum(plain.values()) == pytest.approx(schemes.gain_of_job(played), rel=0.01)
    # Without novelty the replay would have been paid.
    assert plain[played.behind(1)[0]] > 0.05 * float(np.median(list(plain.values())))
