"""Result rows: how runs become one row, how rows are written, read and printed."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import Run
from benchmarks.workloads import CHECKSUM_TOLERANCE, PLACED_TOLERANCE

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One system on one piece of work.

    ``round_seconds_best`` is the best round of all runs, ``round_seconds_median`` the median over the runs of
    each one's median round. ``process_seconds`` and ``peak_mb`` (10^6 bytes, shared pages counted once) are
    medians over the runs, the start of the process included. ``extra`` holds whatever else is worth keeping.
    """

    work: str
    system: str
    version: str
    round_seconds_best: float
    round_seconds_median: float
    process_seconds: float
    peak_mb: float
    checksum: float
    load: float
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in NUMBERS:
            value = getattr(self, name)
            if type(value) is not float or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a finite number from 0, not {value!r}")
        if not self.work or not self.system:
            raise ValueError("work and system must be named")
        if clash := sorted(set(self.extra) & set(FIELDS)):
            raise ValueError(f"extra must not repeat {clash[0]}")

    def to_json(self) -> dict[str, Any]:
        """The row as one flat object."""
        return {name: getattr(self, name) for name in FIELDS} | self.extra

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Row:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: a field is missing or not what it must be.
        """
        if missing := [name for name in FIELDS if name not in value]:
            raise ValueError(f"{missing[0]} is missing")
        extra = {name: item for name, item in value.items() if name not in FIELDS}
        return cls(**{name: value[name] for name in FIELDS}, extra=extra)


NUMBERS = (
    "round_seconds_best",
    "round_seconds_median",
    "process_seconds",
    "peak_mb",
    "checksum",
    "load",
)
FIELDS = ("work", "system", "version", *NUMBERS)


def summarise(work: str, system: str, runs: Sequence[Run], **extra: Any) -> Row:
    """One row of several runs of the same program.

    Raises:
        ValueError: no runs, or runs that ended with different weights.
    """
    if not runs:
        raise ValueError("at least one run is needed")
    results = [run.result for run in runs]
    for result in results[1:]:
        if not same_work(results[0], result):
            raise ValueError(f"{system} on {work} gave different weights in two runs")
    return Row(
        work,
        system,
        str(results[0]["version"]),
        round_seconds_best=min(min(result["rounds"]) for result in results),
        round_seconds_median=statistics.median(statistics.median(result["rounds"]) for result in results),
        process_seconds=statistics.median(run.wall_s for run in runs),
        peak_mb=statistics.median(run.peak_mb for run in runs),
        checksum=float(results[0]["checksum"]),
        load=statistics.median(run.load for run in runs),
        extra={
            "checksum_placed": float(results[0]["checksum_placed"]),
            "process_seconds_best": min(run.wall_s for run in runs),
            "peak_rss_mb": statistics.median(run.peak_rss_mb for run in runs),
            "processes": max(run.processes for run in runs),
            "busy_before": statistics.median(run.busy for run in runs),
            "repeats": len(runs),
        }
        | extra,
    )


def same_work(one: dict[str, Any], other: dict[str, Any], *, parameters: int = 1) -> bool:
    """Whether two systems ended with the same weights, up to rounding.

    The sums of magnitudes may differ by the tolerance; the placed sums, whose terms cancel like a random
    walk's, by their own times magnitude over the root of the number of parameters.
    """
    magnitude = abs(float(one["checksum"]))
    allowed = CHECKSUM_TOLERANCE * magnitude
    if not math.isfinite(float(other["checksum"])) or not math.isfinite(float(other["checksum_placed"])):
        return False
    return abs(float(other["checksum"]) - magnitude) <= allowed and abs(
        float(other["checksum_placed"]) - float(one["checksum_placed"])
    ) <= PLACED_TOLERANCE * magnitude / math.sqrt(parameters)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(
        "[\n" + ",\n".join(json.dumps(row.to_json(), sort_keys=True) for row in rows) + "\n]\n",
        encoding="utf-8",
    )
    os.replace(draft, path)


def read_rows(path: Path) -> list[Row]:
    """Rows that :func:`write_rows` wrote; none where there is no file.

    Raises:
        ValueError: the file does not hold rows.
    """
    if not path.exists():
        return []
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{path.name} must hold a list of rows")
    return [Row.from_json(item) for item in value]


def find(rows: Sequence[Row], work: str, system: str) -> Row | None:
    """The row of ``system`` on ``work``, if it was measured."""
    return next((row for row in rows if row.work == work and row.system == system), None)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Text in columns: the first left, all others right aligned."""
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]

    def laid(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([laid(header), "  ".join("-" * width for width in widths), *map(laid, lines)])


GROWTH = ("work", "best", "median", "process", "peak", "load")


def growth_lines(rows: Sequence[Row]) -> list[list[str]]:
    """Lines of a table with the header ``GROWTH``: times of a round, of the whole process, its peak."""
    return [
        [
            row.work,
            seconds(row.round_seconds_best),
            seconds(row.round_seconds_median),
            seconds(row.process_seconds),
            megabytes(row.peak_mb),
            f"{row.load:.2f}",
        ]
        for row in rows
    ]


def seconds(value: float) -> str:
    """Seconds for people: three digits, and the unit that suits."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def megabytes(value: float) -> str:
    """Megabytes for people."""
    return f"{value:,.0f} MB"
