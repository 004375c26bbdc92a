"""What the protocol costs beside bare training: ``python -m benchmarks.overhead``.

Twelve data owners, their evaluators and a relayer run as nodes in this process, on a chain and a store on
disk; the same training calls are timed without them in the same run. Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import anyio
from benchmarks.machine import Machine
from benchmarks.overhead.measure import Measured, measure
from benchmarks.overhead.setting import SEATS, Setting
from benchmarks.rows import RESULTS

MOST_PERCENT: Final = 15.0
MOST_BYTES: Final = 1.1
SHAPES: Final = (Setting(rows=18_000, epochs=4), Setting(rows=2_000, epochs=36))
"""Both take as many steps of training, about thirty seconds of wall time on two cores. Evaluators train on
half of the hidden set, 1/60 of a data owner's rows for ten epochs in the first, 1/7 for 36 in the second."""
QUICK = Setting(
    owners=4, rows=64, test_rows=64, hidden_units=128, rounds=1, epochs=1, poll_s=0.02, stagger_s=0.2
)


def main(arguments: list[str] | None = None) -> int:
    """Measure both privacy modes in both shapes; the exit status."""
    options = _options(arguments)
    shapes = [replace(shape, rounds=options.rounds) for shape in SHAPES]
    rows = []
    for setting in [QUICK] if options.quick else shapes:
        for privacy in SEATS:
            with tempfile.TemporaryDirectory(prefix="galaxy-overhead-") as folder:
                found = anyio.run(measure, Path(folder), setting, privacy)
            _tell(found, setting)
            rows += rows_of(found, setting)
    missed = [row["row"] for row in rows if row["target"] is not None and row["violations"] > row["target"]]
    if not options.quick:
        rows[0]["machine"] = Machine.here().fields()
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    print("ok" if not missed else f"missed: {'; '.join(missed)}")
    return 1 if missed and not options.quick else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=SHAPES[0].rounds, help="of each job")
    parser.add_argument("--quick", action="store_true", help="a tiny job, and nothing written")
    parser.add_argument("--output", type=Path, default=RESULTS / "overhead.json")
    return parser.parse_args(arguments)


def rows_of(one: Measured, setting: Setting) -> list[dict[str, Any]]:
    """What is written to the results."""
    owners = f"{setting.owners} data owners of {setting.rows:,} rows"
    name = f"{one.privacy}, {owners}, {one.seats} evaluators"
    rounds, owner_rounds = len(one.federated), len(one.federated) * len(one.traffic)
    whole = one.bytes_per_owner_round - one.parcel_bytes - one.update_bytes
    each = len(one.traffic) * rounds
    return [
        _row(f"{name}: wall time beyond bare training", rounds, one.wall_percent, MOST_PERCENT, "%")
        | {
            "bare_wall_s": _rounded(bare.wall_s for bare in one.bare),
            "federated_wall_s": _rounded(fed.wall_s for fed in one.federated),
            "load": round(os.getloadavg()[1], 2),
        },
        _row(f"{name}: CPU time beyond bare training", rounds, one.cpu_percent, MOST_PERCENT, "%")
        | {
            "bare_cpu_s": _rounded(bare.cpu_s for bare in one.bare),
            "federated_cpu_s": _rounded(fed.cpu_s for fed in one.federated),
        },
        _row(f"{name}: CPU time of a round beyond bare training", rounds, one.beyond_s, None, "s"),
        _row(
            f"{name}: of it the evaluators' training on the hidden set",
            rounds,
            one.seats * one.hidden.cpu_s,
            None,
            "s",
        ),
        _row(f"{name}: CPU time of enrolment and settlement", 1, one.around.cpu_s, None, "s")
        | {"wall_s": round(one.around.wall_s, 2)},
        _row(f"{name}: bytes over sealed model + update", owner_rounds, one.bytes_ratio, MOST_BYTES, "x")
        | {"parcel_bytes": one.parcel_bytes, "update_bytes": one.update_bytes, "parameters": one.parameters},
        _row(f"{name}: bytes beyond sealed model + update", owner_rounds, whole, None, "bytes")
        | {
            part: round(sum(getattr(traffic, part) for traffic in one.traffic) / each)
            for part in ("store_sent", "store_received", "chain_sent", "chain_received", "requests")
        },
    ]


def _row(name: str, count: int, value: float, target: float | None, unit: str) -> dict[str, Any]:
    return {"row": name, "count": count, "violations": round(value, 3), "target": target, "unit": unit}


def _rounded(values: Any) -> list[float]:
    return [round(value, 2) for value in values]


def _tell(one: Measured, setting: Setting) -> None:
    print(f"\n{one.privacy}: {one.parameters:,} parameters, {setting.epochs} epochs of {setting.rows} rows")
    bare, federated = median(m.cpu_s for m in one.bare), median(m.cpu_s for m in one.federated)
    print(f"a round: {bare:.1f} CPU s bare, {federated:.1f} in the federation")
    for row in rows_of(one, setting):
        target = "" if row["target"] is None else f" (target {row['target']:g})"
        print(f"  {row['row']}: {row['violations']:,} {row['unit']}{target}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
