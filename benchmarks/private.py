"""What differential privacy costs: accuracy on digits beside epsilon, for noise in training and on updates.

Run with: make bench-private
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from benchmarks.behaviours import digits_job

import galaxylearning as gl
from galaxylearning.crypto.secret_stream import SecretStream
from galaxylearning.learning.discrete_gaussian import discrete_gaussian
from galaxylearning.learning.private import GRID

RESULTS = Path(__file__).parent / "results" / "private.json"
ROUNDS = 10
LOCAL_OWNERS, MANY = (2, 10), 100
"""Data owners where rows are protected (about 700 or 140 rows each), and where owners are (about 14 each)."""
EXAMPLE_CLIP = 1.0
LOCAL: dict[str, Any] = {
    "epochs": None,
    "steps": 10,
    "batch_size": 32,
    "learning_rate": 1.0,
    "clip_norm": 8.0,
}
CENTRAL: dict[str, Any] = {
    "epochs": 10,
    "bits": 20,
    "clip_norm": 1.0,
    "gate": False,
    "minimum_owners": MANY,
    "maximum_owners": MANY,
}
MULTIPLIERS = {"local": (0.6, 0.8, 1.2, 2.0, 4.0), "central": (1.0, 4.0, 8.0, 16.0)}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    name: str
    owners: int
    noise: gl.Noise | None
    changes: dict[str, Any]


def cases() -> list[Case]:
    """Without noise first, then with more and more of it."""
    found = []
    for owners in LOCAL_OWNERS:
        found.append(Case(f"{owners} owners, no noise", owners, None, LOCAL))
        for multiplier in MULTIPLIERS["local"]:
            noise = gl.Noise("local", multiplier, example_clip=EXAMPLE_CLIP)
            found.append(Case(f"{owners} owners, local, multiplier {multiplier:g}", owners, noise, LOCAL))
    found.append(Case(f"{MANY} owners, no noise", MANY, None, CENTRAL))
    for multiplier in MULTIPLIERS["central"]:
        noise = gl.Noise("central", multiplier)
        found.append(Case(f"{MANY} owners, central, multiplier {multiplier:g}", MANY, noise, CENTRAL))
    return found


def measure(case: Case, folder: Path, seeds: int) -> dict[str, Any]:
    """Accuracy on 400 hidden rows over some seeds, with the half-width of its 95 % interval, and epsilon."""
    job = digits_job(folder, ROUNDS)
    plan = msgspec.structs.replace(job.plan, noise=case.noise, **case.changes)
    # Masked mode wants a gate, and three data owners.
    job = replace(job, plan=plan, privacy="sealed")
    accuracies, start = [], time.perf_counter()
    for seed in range(seeds):
        settings = gl.Simulation(data=folder / "rows.csv", owners=case.owners)
        result = gl.simulate(job, settings, seed=seed)
        accuracies.append(result.report.accuracy or 0.0)
    told = result.report.privacy
    spread = float(np.std(accuracies, ddof=1)) if seeds > 1 else math.nan
    return {
        "row": case.name,
        "value": float(np.mean(accuracies)),
        "interval": None if seeds < 2 else 1.96 * spread / math.sqrt(seeds),
        "epsilon": None if told is None else told.epsilon_most,
        "epsilon_of_models": None if told is None else told.epsilon_of_models,
        "delta": None if told is None else told.delta,
        "seeds": seeds,
        "seconds": round((time.perf_counter() - start) / seeds, 2),
    }


def noise_cost(count: int = 1_000_000) -> dict[str, Any]:
    """Nanoseconds that one exact sample takes."""
    stream, start = SecretStream(os.urandom), time.process_time()
    discrete_gaussian(count, GRID * GRID, stream=stream)
    return {"row": "one exact noise sample, ns of CPU", "value": (time.process_time() - start) / count * 1e9}


def told(row: dict[str, Any]) -> str:
    """A row for people."""
    if "seeds" not in row:
        return f"{row['row']:<40} {row['value']:8.0f}"
    interval = "" if row["interval"] is None else f" ± {row['interval']:.3f}"
    figures = "epsilon unbounded" if row["epsilon"] is None else f"epsilon {row['epsilon']:8.3g}"
    models = row["epsilon_of_models"]
    seen = "" if models is None else f", of models only {models:.3g}"
    return f"{row['row']:<40} {row['value']:.3f}{interval}   {figures}{seen}   {row['seconds']} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, and nothing is written")
    options = parser.parse_args()
    rows = [noise_cost()]
    print(told(rows[0]))
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            rows.append(measure(case, Path(folder), 1 if options.quick else options.seeds))
            print(told(rows[-1]))
            sys.stdout.flush()
    if not options.quick:
        RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
