"""Run the faults and write ``benchmarks/results/blobs.json``; exit code 1 if any was not handled.

Run with: make blob-faults
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from benchmarks.blob_faults.services import HttpService, Service, moto_bucket, services
from benchmarks.blob_faults.trials import KINDS, Verdict, broken_off, missed_write, read_fault
from benchmarks.rows import table

RESULTS = Path(__file__).parents[1] / "results" / "blobs.json"

Trial = Callable[..., Awaitable[Verdict]]


def cells(found: Sequence[Service]) -> list[tuple[str, Trial]]:
    """Every kind of trial by name: each fault in each store, alone and with another store beside it."""
    named: list[tuple[str, Trial]] = []
    for service, beside in zip(found, [*found[1:], found[0]], strict=True):
        for kind in KINDS:
            named.append((f"{kind}, {service.name}, alone", partial(read_fault, service, None, kind)))
            with_replica = partial(read_fault, service, beside, kind)
            named.append((f"{kind}, {service.name}, with {beside.name}", with_replica))
        named.append((f"missed write, {service.name}", partial(missed_write, service, beside)))
        if isinstance(service, HttpService):
            named.append((f"broken off, {service.name}", partial(broken_off, service)))
    return named


async def run(count: int, seed: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """``count`` trials of every cell; one row each, and one for all of them."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, moto_bucket() as s3_url:
        async with services(Path(folder), s3_url) as found:
            for number, (name, trial) in enumerate(cells(found)):
                violations = 0
                for index in range(count):
                    verdict = await trial(rng=np.random.default_rng([seed, number, index]))
                    if verdict.problem is not None:
                        violations += 1
                        tell(f"VIOLATION in {name}, trial {index}: {verdict.problem}")
                rows.append({"row": name, "count": count, "violations": violations, "target": 0})
                tell(f"{name}: {count} faults, {violations} violations")
    total = {
        "row": "all faults",
        "count": sum(row["count"] for row in rows),
        "violations": sum(row["violations"] for row in rows),
        "target": 0,
    }
    return [*rows, total]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """All rows, whole or not at all."""
    draft = path.with_suffix(".part")
    draft.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    os.replace(draft, path)


def main() -> int:
    """Print counts, seed and verdict; 1 where something was not handled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=72, help="faults of each kind, store and setting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="3 of each; writes no results")
    given = parser.parse_args()
    start = time.monotonic()

    def tell(line: str) -> None:
        print(line, flush=True)

    rows = anyio.run(run, 3 if given.quick else given.count, given.seed, tell)
    lines = [(row["row"], str(row["count"]), str(row["violations"]), "0") for row in rows]
    print(table(("fault, store, setting", "count", "violations", "target"), lines))
    violations = rows[-1]["violations"]
    verdict = "every fault was found, and put right where another store had the blob"
    if violations:
        verdict = f"{violations} violations"
    print(f"seed {given.seed}, {time.monotonic() - start:.0f} s: {verdict}")
    if not given.quick:
        write(RESULTS, rows)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
