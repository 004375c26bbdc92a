"""What the benchmark of masked mode says of its own: estimates, residues, repeats, rows."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks is no installed package: it lies beside the tests

from benchmarks.secagg.figures import Figure, show, write  # noqa: E402
from benchmarks.secagg.lattice import DEGREE, SIGMA, primal, sigma_within_sum  # noqa: E402
from benchmarks.secagg.leakage import draws, lone_rounds, lone_weight  # noqa: E402


@pytest.mark.parametrize(
    ("unknowns", "log2_q", "sigma", "block_size"),
    [
        (2048, 40, 3.24, 549),
        (2048, 48, 3.24, 423),
        (1920, 40, 3.24, 504),
        (1920, 48, 3.24, 387),
        (2048, 48, 1.45, 395),
        (2048, 54, 3.24, 356),
    ],
)
def test_the_estimate_agrees_with_the_lattice_estimator(
    unknowns: int, log2_q: float, sigma: float, block_size: int
) -> None:
    """Block sizes of its primal_usvp with the ADPS16 cost and the geometric series assumption."""
    assert abs(primal(unknowns, log2_q, sigma).block_size - block_size) <= 3


def test_the_estimate_gives_up_beyond_its_range() -> None:
    with pytest.raises(ValueError, match="harder"):
        primal(3000, 4, 3.24)


def test_equal_weights_leave_most_of_an_error_and_coprime_ones_little() -> None:
    assert sigma_within_sum((1, 1)) == pytest.approx(SIGMA / math.sqrt(2))
    assert sigma_within_sum((15, 15)) == pytest.approx(SIGMA / math.sqrt(2))
    assert sigma_within_sum((3, 4)) == pytest.approx(SIGMA / 5)
    assert sigma_within_sum((14, 15, 14)) == pytest.approx(SIGMA / math.sqrt(2))
    assert sigma_within_sum((5,)) == 0.0


def test_a_lone_weight_shows_its_owner_and_a_shared_one_does_not() -> None:
    found = lone_weight(parameters=100 * DEGREE, bits=10, weight=14, others=15, seed=0)
    assert found.update_revealed > 0.99
    with pytest.raises(ValueError, match="not invertible"):
        lone_weight(parameters=DEGREE, bits=10, weight=15, others=15, seed=0)


def test_weights_that_are_shared_leave_nobody_alone() -> None:
    assert lone_rounds(5, spread=0.1, rounds=200, seed=0) > 0.1
    assert lone_rounds(5, spread=0.1, rounds=200, seed=0, minimum=2) == 0.0
    assert lone_rounds(12, spread=0.3, rounds=200, seed=0, minimum=3) == 0.0


def test_repeated_keys_and_nonces_are_counted() -> None:
    assert draws(60).repeats == 0
    count = itertools.count()
    assert draws(60, source=lambda size: (next(count) % 7).to_bytes(4, "big").rjust(size, b"\0")).repeats > 0


def test_rows_are_written_with_their_verdict(tmp_path: Path) -> None:
    rows = [Figure("a", 1.0, 2.0), Figure("b", 1.0, 2.0, at_least=True, seeds=3), Figure("c", 9.0, None)]
    assert [row.met for row in rows] == [True, False, True]
    assert "MISSED" in show(rows)
    write(tmp_path / "rows.json", rows, {"cpu": "one"})
    found = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert [(row["row"], row["value"], row["target"], row["met"], row["seeds"]) for row in found] == [
        ("a", 1.0, 2.0, True, 1),
        ("b", 1.0, 2.0, False, 3),
        ("c", 9.0, None, True, 1),
    ]


def test_rows_that_were_not_measured_again_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write(path, [Figure("a", 1.0, 2.0), Figure("b", 3.0, None)], {"cpu": "one"})
    write(path, [Figure("c", 4.0, None), Figure("a", 9.0, 2.0)], {"cpu": "two"})
    found = json.loads(path.read_text("utf-8"))
    assert [(row["row"], row["value"], row["met"], row["machine"]["cpu"]) for row in found] == [
        ("a", 9.0, False, "two"),
        ("b", 3.0, True, "one"),
        ("c", 4.0, True, "two"),
    ]
