"""Rows of the results: what was found, what was asked, whether it was met, from how many seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import table


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. ``target`` is None where nothing was asked. ``note`` says what else is worth knowing."""

    row: str
    value: float
    target: float | None
    at_least: bool = False
    seeds: int = 1
    note: str = ""

    @property
    def met(self) -> bool:
        """Rows without a target are met."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target

    def to_json(self) -> dict[str, Any]:
        """The row as one object."""
        return {
            "row": self.row,
            "value": self.value,
            "target": self.target,
            "met": self.met,
            "seeds": self.seeds,
            "at_least": self.at_least,
            "note": self.note,
        }


def show(figures: Sequence[Figure]) -> str:
    """The rows for people."""
    lines = [
        [
            figure.row,
            f"{figure.value:.4g}",
            "" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:g}",
            "" if figure.target is None else "met" if figure.met else "MISSED",
            str(figure.seeds),
        ]
        for figure in figures
    ]
    notes = [f"{figure.row}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([table(["row", "value", "target", "", "seeds"], lines), "", *notes])


def write(path: Path, figures: Sequence[Figure], machine: dict[str, object]) -> None:
    """Write all rows, whole or not at all; rows of the file that were not measured stay as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["row"]: row for row in json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}
    rows |= {figure.row: figure.to_json() | {"machine": machine} for figure in figures}
    draft = path.with_suffix(".part")
    lines = ",\n".join(json.dumps(row, sort_keys=True) for row in rows.values())
    draft.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    os.replace(draft, path)
