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


_SCALE: tuple[tuple[str, str, Callable[[Row], float], float, str], ...] = (
    (
        "owners-10000",
        "10,000 owners of W1's model, per 1,000 owners a round",
        lambda row: row.round_seconds_best * 100,
        15,
        " ms",
    ),
    ("owners-100000", "100,000 owners, peak memory", lambda row: row.peak_mb, 2147, " MB"),
    (
        "path-values-1000",
        "path values of 1,000 owners, 1e6 parameters",
        lambda row: row.round_seconds_best,
        1.5,
        " s",
    ),
    ("path-values-1000", "the same, peak memory", lambda row: row.peak_mb, 500, " MB"),
    (
        "coalitions-10",
        "all 1,024 coalitions of 10 owners, one round",
        lambda row: row.round_seconds_best,
        0.15,
        " s",
    ),
    ("retraining-10", "exact retraining values of 10 owners", lambda row: row.round_seconds_best, 4, " s"),
    (
        "simulate-first",
        "galaxy simulate, first line of progress",
        lambda row: row.round_seconds_best,
        2,
        " s",
    ),
    ("simulate", "galaxy simulate on the template, done", lambda row: row.process_seconds, 5, " s"),
)


def scale_verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """The targets of scale, of values and of the simulator's start; every one is a bound from above."""
    verdicts = []
    for work, name, figure, asked, unit in _SCALE:
        row = find(rows, work, "galaxy")
        found = None if row is None else figure(row)
        verdicts.append(Verdict(name, found, asked, at_least=False, unit=unit))
    return verdicts
