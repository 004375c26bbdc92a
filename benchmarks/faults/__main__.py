"""Thousands of whole jobs under simulated faults: ``python -m benchmarks.faults``.

Exits with 1 where an invariant broke. Every run follows from its seed: ``--replay SEED`` tells its story.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks.faults import trace
from benchmarks.faults.campaign import Tally, runs_of
from benchmarks.faults.checks import checked
from benchmarks.faults.play import source_of
from benchmarks.faults.scenario import scenario
from benchmarks.rows import RESULTS

from galaxylearning.simulation.faults import Fault

RUNS: Final = 10_000
QUICK_RUNS: Final = 200
TOLD_EVERY_S: Final = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign or replay a seed; the exit status."""
    options = _options(arguments)
    if options.replay is not None:
        return _replay(options.replay)
    runs = options.runs if options.runs is not None else QUICK_RUNS if options.quick else RUNS
    deadline_s = time.monotonic() + 60 * options.budget_minutes
    tally, told_s = Tally(), time.monotonic()
    print(f"{runs} runs from seed {options.seed}, at most {options.budget_minutes:g} minutes", flush=True)
    for one in runs_of(range(options.seed, options.seed + runs), options.processes, deadline_s):
        tally.take(one)
        for found in one.violations:
            print(f"seed {one.seed}: {found}", flush=True)
        if time.monotonic() - told_s > TOLD_EVERY_S:
            told_s = time.monotonic()
            print(
                f"  {tally.runs} runs, {tally.faults.total()} faults, {len(tally.failing)} failing",
                flush=True,
            )
    return _verdict(options, runs, tally)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--budget-minutes", type=float, default=240.0, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, help=f"how many seeds (default {RUNS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs, and nothing written")
    parser.add_argument("--replay", type=int, metavar="SEED", help="tell the story of one run")
    parser.add_argument("--processes", type=int, default=1, help="how many runs at a time")
    parser.add_argument("--output", type=Path, default=RESULTS / "faults.json")
    options = parser.parse_args(arguments)
    if options.processes < 1 or (options.runs is not None and options.runs < 1):
        parser.error("--processes and --runs are at least 1")
    return options


def _verdict(options: argparse.Namespace, runs: int, tally: Tally) -> int:
    print(f"\n{'faults':<24}{'count':>12}")
    for kind in Fault:
        print(f"{kind:<24}{tally.faults[kind]:>12,}")
    print(f"{'all':<24}{tally.faults.total():>12,}\n")
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.kinds.items())))
    print(f"{tally.steps:,} steps, {tally.virtual_s / 86_400:,.1f} days of chain time")
    last = options.seed + tally.runs - 1
    print(f"seeds {options.seed} to {last}; {tally.repeated} of them run twice, the same again")
    print(f"{tally.calls:,} calls played on the contracts too, {tally.refused:,} of them refused by both")
    for difference in tally.differences:
        print(f"light ledger: {difference}")
    violations = sum(len(found) for found in tally.failing.values())
    for seed, found in sorted(tally.failing.items()):
        print(f"seed {seed} ({len(found)}): python -m benchmarks.faults --replay {seed}")
    is_good = not violations and not tally.differences
    short = "" if tally.runs == runs else f" (time was up after {tally.runs} of {runs} runs)"
    counts = f"{tally.runs:,} runs, {tally.faults.total():,} faults, {violations} violations"
    print(f"{'ok' if is_good else 'FAILED'}: {counts}{short}")
    if not options.quick:
        rows = tally.rows(options.seed)
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if is_good else 1


def _replay(seed: int) -> int:
    here = scenario(seed)
    played, found = checked(here, source=source_of(here, keeps_trace=True))
    for line in trace.lines(played):
        print(line)
    print(f"\n{played.source.counts.total()} faults, {played.steps} steps, fingerprint {played.fingerprint}")
    for what in found:
        print(f"violation: {what}")
    print("FAILED" if found else "ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
