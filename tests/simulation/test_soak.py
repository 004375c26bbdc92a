"""The soak in small: one set of nodes serves three jobs: sealed, masked, and one that is deserted."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak import cast, judge
from benchmarks.soak.play import soak
from benchmarks.soak.resources import drift_percent


def test_three_jobs_settle_and_everything_holds(tmp_path: Path) -> None:
    told: list[str] = []
    found = soak(tmp_path, jobs=3, seed=1, tell=told.append)
    assert found.problems == []
    counts = {row: count.count for row, count in found.counts.items()}
    assert counts[judge.SETTLED] == counts[judge.AUDITED] == counts[judge.FAULTY] == 3
    assert counts[judge.PAID] == 3 * len(cast.HONEST_OWNERS)
    assert counts[judge.UNPAID] == counts[judge.UNPAID_TWICE] == 3
    assert found.faults.total() > 100
    assert "3 jobs" in told[-1]
    rows = {row["row"]: row for row in found.rows(seed=1)}
    assert all({"row", "count", "violations", "target"} <= row.keys() for row in rows.values())
    assert rows["memory drift, %"]["target"] == 5
    assert rows["journals, bytes per job"]["bytes_per_job"] > 0


def test_drift_is_from_the_second_tenth_to_the_last() -> None:
    rss = [50, 60, *[100] * 2, *[101] * 14, 110, 112]
    assert drift_percent(rss) == 11.0
    assert drift_percent([200, 100, 100]) == 0.0


def test_so_many_looks_may_not_hold_and_no_more() -> None:
    count = judge.Count(most=0.01)
    for number in range(200):
        count.check(number > 1, f"look {number}")
    assert (count.allowed, count.problems) == (2, [])
    count.check(False, "one more")
    assert count.allowed == 3
    assert count.problems == []
    count.check(False, "and another")
    assert count.problems == ["look 0", "look 1", "one more", "and another"]
    strict = judge.Count()
    strict.check(False, "this")
    assert (strict.allowed, strict.problems) == (0, ["this"])
