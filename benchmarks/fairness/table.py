"""Rows of the fairness table: a figure, what it must reach, whether it does, over how many seeds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

RESULT = Path(__file__).resolve().parent.parent / "results" / "fairness.json"
RESAMPLES = 2000
COVERED = 95.0


@dataclass(frozen=True, slots=True)
class Row:
    """``value`` with its 95 % interval; ``target`` and ``met`` are None where a figure is only published.

    ``seeds`` counts cohorts.
    """

    row: str
    value: float
    low: float
    high: float
    target: float | None
    met: bool | None
    seeds: int


def ratio_row(
    name: str, above: Sequence[float], below: Sequence[float], *, at_most: float | None = None
) -> Row:
    """Sum over sum, the interval by drawing cohorts again."""
    pairs = np.array([above, below], np.float64)
    low, high = _drawn_again(pairs, lambda part: float(part[0].sum() / max(float(part[1].sum()), 1e-12)))
    value = float(pairs[0].sum() / max(float(pairs[1].sum()), 1e-12))
    return Row(name, value, low, high, at_most, None if at_most is None else value <= at_most, len(above))


def mean_row(
    name: str,
    values: Sequence[float],
    *,
    at_least: float | None = None,
    near: tuple[float, float] | None = None,
) -> Row:
    """A mean; ``near`` is a value and how far from it the mean may be."""
    found = np.array([values], np.float64)
    low, high = _drawn_again(found, lambda part: float(part.mean()))
    value = float(found.mean())
    if near is not None:
        return Row(name, value, low, high, near[0], abs(value - near[0]) <= near[1], len(values))
    return Row(name, value, low, high, at_least, None if at_least is None else value >= at_least, len(values))


def most_row(name: str, values: Sequence[float], *, at_most: float | None = None) -> Row:
    """The largest of all; no interval."""
    value = float(max(values))
    met = None if at_most is None else value <= at_most
    return Row(name, value, value, value, at_most, met, len(values))


def rate_row(
    name: str, hits: Sequence[bool], *, at_most: float | None = None, at_least: float | None = None
) -> Row:
    """A rate with Wilson's interval."""
    count, part = len(hits), sum(hits) / len(hits)
    z = 1.96
    centre = (part + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(part * (1 - part) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    target = at_most if at_most is not None else at_least
    met = None if target is None else part <= target if at_most is not None else part >= target
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Row(name, part, low, high, target, met, count)


def write(rows: Sequence[Row]) -> None:
    """Write all rows, whole or not at all."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    draft = RESULT.with_suffix(".part")
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    draft.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    os.replace(draft, RESULT)


def show(row: Row) -> str:
    """One line of text."""
    goal = "" if row.target is None else f"target {row.target:g} {'met' if row.met else 'MISSED'}"
    return f"{row.row:<82} {row.value:8.3f} [{row.low:.3f}, {row.high:.3f}]  n={row.seeds:<4} {goal}"


def _drawn_again(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    rng = np.random.default_rng(0xB007)
    count = values.shape[1]
    found = [statistic(values[:, rng.integers(0, count, count)]) for _ in range(RESAMPLES)]
    low, high = np.percentile(found, [(100 - COVERED) / 2, (100 + COVERED) / 2])
    return float(low), float(high)
