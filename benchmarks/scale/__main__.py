"""Measure how costs grow: owners, parameters, memory budgets, coalitions, values, the simulator's start.

Run with: make bench-scale, or python -m benchmarks.scale; --help tells the options.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.machine import Machine, available_bytes
from benchmarks.measuring import RunError, run
from benchmarks.peers.systems import HERE, ROOT, environment
from benchmarks.rows import (
    GROWTH,
    RESULTS,
    Row,
    growth_lines,
    read_rows,
    summarise,
    table,
    write_rows,
)
from benchmarks.scale.cases import GROUPS, Case, cases, rows_printed
from benchmarks.targets import scale_verdicts


def measure(case: Case, repeats: int) -> list[Row]:
    """The rows of one case.

    Raises:
        RunError: it ended without a result.
        ValueError: a script's rows are not rows.
    """
    command = [str(HERE), *case.arguments]
    machine = {"machine": Machine.here().fields()}
    if case.is_script:
        done = run(command, env=environment(), cwd=ROOT, limit_s=case.limit_s, read=rows_printed)
        rows = done.result["rows"]
        # One row alone is the whole process; of several, each has a process of its own and knows its seconds.
        whole = {"process_seconds": done.wall_s} if len(rows) == 1 else {}
        return [Row.from_json(row | whole | machine) for row in rows]
    runs = [
        run(command, env=environment(), cwd=ROOT, limit_s=case.limit_s)
        for _ in range(min(repeats, case.most_repeats))
    ]
    kept = {name: statistics.median(done.result[name] for done in runs) for name in case.keep}
    return [summarise(case.name, "galaxy", runs, **case.extra, **kept, **machine)]


def report(rows: Sequence[Row]) -> str:
    """All rows for people."""
    return table(GROWTH, growth_lines(rows))


def main() -> int:
    """Measure, write the rows, print table and targets; 1 with ``--strict`` when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of every program (default 3)")
    parser.add_argument("--quick", action="store_true", help="small cases once, nothing written")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    chosen = parser.parse_args()
    if chosen.repeats < 1:
        parser.error("--repeats must be at least 1")
    subprocess.run([HERE, "-m", "benchmarks.peers.prepare"], env=environment(), cwd=ROOT, check=True)
    rows: list[Row] = []
    failed = False
    for case in cases(chosen.groups, quick=chosen.quick):
        if case.needs_bytes > available_bytes():
            print(
                f"{case.name}: left out, it needs about {case.needs_bytes / 2**30:.1f} GiB and "
                f"{available_bytes() / 2**30:.1f} GiB are free",
                file=sys.stderr,
            )
            continue
        try:
            found = measure(case, 1 if chosen.quick else chosen.repeats)
        except (RunError, ValueError) as error:
            print(f"error: {case.name}: {error}", file=sys.stderr)
            failed = True
            continue
        print(report(found), file=sys.stderr, flush=True)
        rows += found
    if not chosen.quick:
        path = RESULTS / "scale.json"
        measured = {row.work for row in rows}
        write_rows(path, [*(row for row in read_rows(path) if row.work not in measured), *rows])
        print(f"written to {path.relative_to(ROOT)}", file=sys.stderr)
    if rows:
        print(f"\n{report(rows)}\n")
    verdicts = scale_verdicts(rows)
    for verdict in verdicts:
        print(verdict.line())
    if failed:
        return 2
    return 1 if chosen.strict and not all(verdict.met for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
