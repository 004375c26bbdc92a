"""Every behaviour at 200 data owners and 30 rounds: does it end, who is named in the report, who is paid?

Run with: make behaviours
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import galaxylearning as gl
from galaxylearning.simulation.behaviours import behaviour_names
from galaxylearning.simulation.result import SimulationResult
from galaxylearning.simulation.sources import built_in, built_in_schema

TEST_ROWS = 400


def write(path: Path, columns: Any, rows: slice) -> None:
    """Some rows of a built-in data set as CSV."""
    names = list(columns)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(columns[name][rows].tolist() for name in names), strict=True))


def digits_job(folder: Path, rounds: int) -> gl.Job:
    """A small network on digits; ``folder`` gets test.csv and rows.csv."""
    schema = built_in_schema("digits")
    _, columns = built_in("digits", schema)
    write(folder / "test.csv", columns, slice(0, TEST_ROWS))
    write(folder / "rows.csv", columns, slice(TEST_ROWS, None))
    torch.manual_seed(0)
    return gl.Job(
        title="digits",
        model=nn.Sequential(nn.Linear(gl.input_width(schema), 32), nn.ReLU(), nn.Linear(32, 10)),
        loss="cross_entropy",
        schema=schema,
        test_data=folder / "test.csv",
        plan=gl.Plan(
            rounds=rounds, epochs=2, batch_size=16, learning_rate=0.2, clip_norm=4.0, minimum_owners=3
        ),
        price=gl.Price(bounty="1000", target_gain=1.5),
    )


def row(behaviour: str, result: SimulationResult, seconds: float) -> dict[str, Any]:
    """What one run came to: shares of pay, and whether the report names everybody who behaved so."""
    named = [owner for owner in result.report.owners if owner.behaviour == behaviour]
    honest = [owner for owner in result.report.owners if owner.behaviour == "honest"]
    mean = sum(owner.pay for owner in honest) / max(1, len(honest))
    theirs = sum(owner.pay for owner in named) / max(1, len(named))
    return {
        "behaviour": behaviour,
        "identities": len(named),
        "accuracy": result.report.accuracy,
        "accepted": sum(owner.accepted for owner in named) / max(1, len(named) * result.report.rounds),
        "pay_of_honest_mean": theirs / mean if mean else None,
        "adds_up": result.report.paid + result.refunded == result.report.bounty,
        "twins": len(result.twins),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--owners", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--share", type=int, default=20, help="how many of them misbehave")
    parser.add_argument("--alpha", type=float, default=1.0, help="of the Dirichlet partition by label")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = digits_job(folder, given.rounds)
        for behaviour in given.only or behaviour_names():
            settings = gl.Simulation(
                data=folder / "rows.csv",
                owners=given.owners,
                partitioner=f"inner-dirichlet:alpha={given.alpha},partition_sizes={1397 // given.owners}",
                behaviours=[f"{behaviour}@x{given.share}"],
            )
            start = time.perf_counter()
            result = gl.simulate(job, settings)
            rows.append(row(behaviour, result, time.perf_counter() - start))
            if given.format == "table":
                print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if given.format == "json":
        print(json.dumps(rows, indent=2))
    if not all(one["adds_up"] and one["identities"] >= given.share for one in rows):
        sys.exit("a report does not add up, or does not name everybody")


if __name__ == "__main__":
    main()
