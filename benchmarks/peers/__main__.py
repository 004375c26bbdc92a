"""Measure every system on the same work, one after the other and over again, and compare.

Run with: make bench-peers, or python -m benchmarks.peers --help tells the options.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.machine import Machine
from benchmarks.measuring import Run, RunError, run
from benchmarks.peers.systems import HERE, ROOT, SYSTEMS, System, environment
from benchmarks.rows import (
    RESULTS,
    Row,
    megabytes,
    same_work,
    seconds,
    summarise,
    table,
    write_rows,
)
from benchmarks.targets import peer_verdicts, ratio
from benchmarks.workloads import WORKLOADS

ASKED = {"flower": (">=300x", ">=3x"), "pfl": (">=40x", ">=1.8x"), "torch-loop": (">=20x", "")}


def measure(systems: Sequence[System], works: Sequence[str], repeats: int) -> list[Row]:
    """Run all systems in turn, ``repeats`` times over, so that what else the machine does falls on all alike.

    Raises:
        RunError: a program ended without a result.
        ValueError: two systems, or two runs of one, did not do the same work.
    """
    pairs = [(work, system) for work in works for system in systems if work in system.works]
    runs: dict[tuple[str, str], list[Run]] = {(work, system.name): [] for work, system in pairs}
    for repeat in range(repeats):
        for work, system in pairs:
            done = run(system.command(work), env=environment(), cwd=ROOT)
            runs[work, system.name].append(done)
            best = seconds(min(done.result["rounds"]))
            print(
                f"{repeat + 1}/{repeats} {work} {system.name:<11} best round {best}, "
                f"process {seconds(done.wall_s)}, peak {megabytes(done.peak_mb)}, "
                f"load {done.load:.2f}, busy before {done.busy:.0%}",
                file=sys.stderr,
                flush=True,
            )
    machine = Machine.here().fields()
    rows = [summarise(work, name, found, machine=machine) for (work, name), found in runs.items()]
    comparable = {system.name for system in systems if system.is_comparable}
    check_same_work([row for row in rows if row.system in comparable])
    return rows


def check_same_work(rows: Sequence[Row]) -> None:
    """Every system must have ended with the same weights as the first on that work.

    Raises:
        ValueError: naming the two that differ.
    """
    first: dict[str, Row] = {}
    for row in rows:
        reference = first.setdefault(row.work, row)
        if not same_work(reference.to_json(), row.to_json(), parameters=WORKLOADS[row.work].parameters):
            raise ValueError(
                f"{row.work}: {row.system} ended with other weights than {reference.system} "
                f"(sums {row.checksum!r} and {reference.checksum!r}): they did not do the same work"
            )


def report(rows: Sequence[Row]) -> str:
    """The comparison for people: absolute figures, and how many times each is galaxy's."""
    parts = []
    for place, work in enumerate(WORKLOADS):
        lines = []
        for row in (row for row in rows if row.work == work):
            times = [
                ratio(rows, work, row.system, "galaxy", field)
                for field in ("round_seconds_best", "process_seconds", "peak_mb")
            ]
            asked = ASKED.get(row.system, ("", ""))[place]
            lines.append(
                [
                    row.system,
                    row.version,
                    seconds(row.round_seconds_best),
                    seconds(row.round_seconds_median),
                    seconds(row.process_seconds),
                    megabytes(row.peak_mb),
                    *("" if found is None else f"{found:.3g}x" for found in times),
                    asked,
                    f"{row.load:.2f}",
                ]
            )
        if lines:
            header = (
                "system version best median process peak best/galaxy process/galaxy peak/galaxy asked load"
            )
            parts.append(f"{work}\n{table(header.split(), lines)}")
    return "\n\n".join(parts)


def main() -> int:
    """Measure, write the rows, print tables and targets; 1 with ``--strict`` when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of every program (default 5)")
    parser.add_argument("--quick", action="store_true", help="one run of every program, nothing written")
    parser.add_argument("--works", nargs="+", choices=sorted(WORKLOADS), default=sorted(WORKLOADS))
    names = list(dict.fromkeys(system.name for system in SYSTEMS))
    parser.add_argument("--systems", nargs="+", choices=names, default=names)
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    chosen = parser.parse_args()
    if chosen.repeats < 1:
        parser.error("--repeats must be at least 1")
    systems = [system for system in SYSTEMS if system.name in chosen.systems]
    missing = sorted({str(system.python) for system in systems if not system.python.exists()})
    if missing:
        parser.error(f"{missing[0]} is missing: run make bench-peers, which makes the peers' environments")
    subprocess.run([HERE, "-m", "benchmarks.peers.prepare"], env=environment(), cwd=ROOT, check=True)
    try:
        rows = measure(systems, chosen.works, 1 if chosen.quick else chosen.repeats)
    except (RunError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = RESULTS / "peers.json"
    is_whole = not chosen.quick and chosen.systems == names and sorted(chosen.works) == sorted(WORKLOADS)
    if is_whole:
        write_rows(path, rows)
    print(f"\n{report(rows)}\n")
    verdicts = peer_verdicts(rows)
    for verdict in verdicts:
        print(verdict.line())
    print(f"\nwritten to {path.relative_to(ROOT)}" if is_whole else "\nnot all was measured: nothing written")
    return 1 if chosen.strict and not all(verdict.met for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
