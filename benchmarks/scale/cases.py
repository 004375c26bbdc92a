"""What is measured as it grows: each case is one program, run in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

GROUPS = ("owners", "parameters", "budgets", "values", "coalitions", "simulate")

OWNERS = (10, 100, 1_000, 10_000, 100_000)
PARAMETERS = (10**4, 10**5, 10**6, 10**7, 10**8)
BUDGETS_MIB = (128, 256, 1024)
BYTES_PER_PARAMETER = 48
"""Peak of the growing MLP over its parameters: start, model, slope, update, step and copies, all float32."""


@dataclass(frozen=True, slots=True)
class Case:
    """One program to measure.

    ``arguments`` follow the interpreter. A script prints its rows as JSON itself and repeats by itself; any
    other program says one result and is named ``name`` in the results. ``keep`` are fields of the result
    that are worth keeping, ``extra`` what else the row should say.
    """

    name: str
    arguments: tuple[str, ...]
    is_script: bool = False
    keep: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    needs_bytes: int = 0
    limit_s: float = 900.0
    most_repeats: int = 100


def cases(groups: Sequence[str], *, quick: bool) -> Iterator[Case]:
    """The cases of these groups, small ones first; ``quick`` leaves the large ones out."""
    cores = len(os.sched_getaffinity(0))
    if "owners" in groups:
        for owners in OWNERS[: 3 if quick else None]:
            yield _owners(owners)
    if "parameters" in groups:
        for power, parameters in enumerate(PARAMETERS[: 3 if quick else None], start=4):
            yield _parameters(power, parameters)
    if "budgets" in groups:
        for mib in BUDGETS_MIB[: 1 if quick else None]:
            yield _budget(mib, cores)
    if "values" in groups:
        small = ("--owners", "100", "--parameters", "10000") if quick else ()
        yield Case("path values", ("benchmarks/path_values.py", *small, "--format", "json"), is_script=True)
    if "coalitions" in groups:
        few = ("--quick",) if quick else ()
        yield Case("coalitions", ("benchmarks/coalitions.py", *few, "--format", "json"), is_script=True)
    if "simulate" in groups:
        keep = ("first_line_seconds", "first_round_seconds", "whole_seconds")
        yield Case("simulate", ("-m", "benchmarks.scale.simulate"), keep=keep)


def _owners(owners: int) -> Case:
    """One thread, as a simulation takes for so small a model: two mostly wait for the interpreter."""
    rounds = 20 if owners <= 1_000 else 5
    return Case(
        f"owners-{owners}",
        ("-m", "benchmarks.scale.owners", str(owners), "--rounds", str(rounds), "--threads", "1"),
        keep=("rows",),
        extra={"owners": owners, "threads": 1, "budget_mib": 256},
        needs_bytes=(1 << 30) + 1024 * owners,
    )


def _parameters(power: int, parameters: int) -> Case:
    budget = max(256, BYTES_PER_PARAMETER * parameters >> 20)
    return Case(
        f"parameters-1e{power}",
        ("-m", "benchmarks.scale.parameters", str(parameters), "--budget-mib", str(budget)),
        keep=("parameters", "owners"),
        extra={"threads": 1, "budget_mib": budget},
        needs_bytes=(1 << 30) + 2 * BYTES_PER_PARAMETER * parameters,
        most_repeats=1 if parameters > 10**7 else 100,
    )


def _budget(mib: int, cores: int) -> Case:
    return Case(
        f"budget-{mib}",
        (
            "-m",
            "benchmarks.scale.owners",
            "20000",
            "--rounds",
            "3",
            "--threads",
            str(cores),
            "--whole-mib",
            str(mib),
        ),
        extra={"owners": 20_000, "threads": cores, "whole_budget_mib": mib},
        needs_bytes=(1 << 30) + (mib << 20),
    )


def rows_printed(text: str) -> dict[str, Any]:
    """What a script printed as JSON: a list of rows, or one row.

    Raises:
        ValueError: it is neither.
    """
    value = json.loads(text)
    rows = value if isinstance(value, list) else [value]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("must print a list of rows")
    return {"rows": rows}
