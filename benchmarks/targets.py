"""What the figures are meant to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.rows import Row, find


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what was found (None where it was not measured) and what was asked."""

    name: str
    found: float | None
    asked: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        if self.found is None:
            return None
        return self.found >= self.asked if self.at_least else self.found <= self.asked

    def line(self) -> str:
        """The verdict for people."""
        sign = ">=" if self.at_least else "<="
        asked = f"{sign} {self.asked:g}{self.unit}"
        if self.found is None:
            return f"[    ] {self.name}: not measured (target {asked})"
        return f"[{'met ' if self.met else 'miss'}] {self.name}: {self.found:.3g}{self.unit} (target {asked})"


_RATIOS: tuple[tuple[str, str, str, float], ...] = (
    ("W1", "flower", "round_seconds_best", 300),
    ("W1", "pfl", "round_seconds_best", 40),
    ("W1", "torch-loop", "round_seconds_best", 20),
    ("W1", "flower", "process_seconds", 20),
    ("W2", "flower", "round_seconds_best", 3),
    ("W2", "pfl", "round_seconds_best", 1.8),
    ("W2", "flower", "process_seconds", 5),
)
_WHAT = {"round_seconds_best": "best round", "process_seconds": "whole process"}
_OVERHEADS = (("W1", 2.0), ("W2", 1.3))
_MEMORY = (("W1", 150.0), ("W2", 350.0))


def ratio(rows: Sequence[Row], work: str, one: str, other: str, field: str) -> float | None:
    """How many times larger ``field`` is for ``one`` than for ``other``; None where either is missing."""
    above, below = find(rows, work, one), find(rows, work, other)
    if above is None or below is None or not getattr(below, field):
        return None
    return float(getattr(above, field) / getattr(below, field))


def peer_verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """The targets against peers, of memory and of the engines' overhead."""
    verdicts = [
        Verdict(
            f"{work} {_WHAT[field]}, times faster than {peer}",
            ratio(rows, work, peer, "galaxy", field),
            asked,
            at_least=True,
            unit="x",
        )
        for work, peer, field, asked in _RATIOS
    ]
    for work, asked in _MEMORY:
        row = find(rows, work, "galaxy")
        verdicts.append(
            Verdict(f"{work} peak memory", row.peak_mb if row else None, asked, at_least=False, unit=" MB")
        )
    for work, asked in _OVERHEADS:
        found = ratio(rows, work, "galaxy", "bare", "round_seconds_best")
        verdicts.append(
            Verdict(f"{work} engine over its bare arithmetic", found, asked, at_least=False, unit="x")
        )
    return verdicts


@dataclass(frozen=True, slots=True)
class Bound:
    """A target of scale: a figure of the first row whose work begins with ``work``, bounded from above."""

    work: str
    name: str
    figure: Callable[[Row], float]
    most: float
    unit: str


def _round(row: Row) -> float:
    return row.round_seconds_best


def _peak(row: Row) -> float:
    return row.peak_mb


_SCALE = (
    Bound(
        "owners-10000",
        "10,000 owners of W1's model, per 1,000 owners a round",
        lambda row: row.round_seconds_best * 100,
        15,
        " ms",
    ),
    Bound("owners-100000", "100,000 owners, peak memory", _peak, 2147, " MB"),
    Bound("path-values-1000x", "path values of 1,000 owners, 1e6 parameters, one round", _round, 1.5, " s"),
    Bound("path-values-1000x", "path values of 1,000 owners, peak memory", _peak, 500, " MB"),
    Bound("coalitions-10", "all 1,024 coalitions of 10 owners, one round", _round, 0.15, " s"),
    Bound("retraining-10", "exact retraining values of 10 owners", _round, 4, " s"),
    Bound(
        "simulate",
        "galaxy simulate on the template, first line",
        lambda row: float(row.extra["first_line_seconds"]),
        2,
        " s",
    ),
    Bound(
        "simulate",
        "galaxy simulate on the template, done",
        lambda row: float(row.extra["whole_seconds"]),
        5,
        " s",
    ),
)


def scale_verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """The targets of scale, of values and of the simulator's start, and stated budgets against peaks."""
    verdicts = []
    for bound in _SCALE:
        row = next((row for row in rows if _is_of(row.work, bound.work)), None)
        found = None if row is None else bound.figure(row)
        verdicts.append(Verdict(bound.name, found, bound.most, at_least=False, unit=bound.unit))
    for row in rows:
        if "whole_budget_mib" in row.extra:
            most = round(float(row.extra["whole_budget_mib"]) * 2**20 / 1e6, 1)
            name = f"peak under a budget of {row.extra['whole_budget_mib']} MiB"
            verdicts.append(Verdict(name, float(row.extra["peak_rss_mb"]), most, at_least=False, unit=" MB"))
    return verdicts


def _is_of(work: str, asked: str) -> bool:
    return work.startswith(asked) if asked.endswith("x") else work == asked
