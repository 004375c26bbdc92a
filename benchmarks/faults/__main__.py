"""Thousands of whole jobs under simulated faults: ``python -m benchmarks.faults``; see docs/simulated-faults.md.

Exits with 1 where an invariant broke. Every run follows from its seed: ``--replay SEED`` tells its story.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import anyio
from benchmarks.faults import fidelity, trace
from benchmarks.faults.checks import checked
from benchmarks.faults.play import source_of
from benchmarks.faults.scenario import scenario
from benchmarks.rows import RESULTS

from galaxylearning.simulation.faults import Fault

RUNS: Final = 10_000
QUICK_RUNS: Final = 200
REPEAT_EVERY: Final = 50
"""Every so many runs one is run twice, and must come out the same; and it is played on the contracts too."""
TOLD_EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """What is kept of one run."""

    seed: int
    kind: str
    faults: Counter[Fault]
    steps: int
    virtual_s: float
    violations: tuple[str, ...]
    compared: fidelity.Comparison | None = None


@cache
def _contracts() -> fidelity.Contracts:
    """This process's contracts, in a folder that goes with it."""
    folder = tempfile.mkdtemp(prefix="galaxy-faults-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return anyio.run(fidelity.Contracts.deployed, Path(folder))


def run(seed: int) -> Run:
    """Run a seed; now and then twice, to see that it is the same run, and on the contracts."""
    here, compared = scenario(seed), None
    try:
        played, found = checked(here)
        if seed % REPEAT_EVERY == 0:
            if checked(here)[0].fingerprint != played.fingerprint:
                found.append("the same seed gave another run")
            compared = anyio.run(fidelity.compared, _contracts(), here)
    except Exception as error:  # noqa: BLE001 - whatever a run ends with, its seed must be told
        return Run(seed, "failed", Counter(), 0, 0.0, (f"{type(error).__name__}: {error}",))
    phase = played.state.phase.name.lower() if played.state is not None else "not posted"
    return Run(
        seed,
        f"{here.privacy} {phase}",
        played.source.counts,
        played.steps,
        played.ended_at_s or 0.0,
        tuple(found),
        compared,
    )


@dataclass
class Tally:
    """All runs so far."""

    runs: int = 0
    repeated: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    hit: Counter[Fault] = field(default_factory=Counter)
    """Failing runs in which a kind of fault happened."""
    failing: dict[int, tuple[str, ...]] = field(default_factory=dict)
    steps: int = 0
    virtual_s: float = 0.0
    calls: int = 0
    refused: int = 0
    differences: list[str] = field(default_factory=list)
    """Between the light ledger and the contracts."""

    def take(self, one: Run) -> None:
        """Count a run."""
        self.runs += 1
        self.repeated += one.seed % REPEAT_EVERY == 0
        self.kinds[one.kind] += 1
        self.faults += one.faults
        self.steps += one.steps
        self.virtual_s += one.virtual_s
        if one.compared is not None:
            self.calls += one.compared.calls
            self.refused += one.compared.refused
            self.differences += [f"seed {one.seed}: {what}" for what in one.compared.differences]
        if one.violations:
            self.failing[one.seed] = one.violations
            self.hit.update(set(one.faults))

    def rows(self, first_seed: int) -> list[dict[str, Any]]:
        """What is written to the results."""
        violations = sum(len(found) for found in self.failing.values())
        rows = [
            _row("runs", self.runs, violations, first_seed=first_seed, failing_seeds=sorted(self.failing)),
            _row("faults", self.faults.total(), violations),
        ]
        rows += [_row(f"faults: {kind}", self.faults[kind], self.hit[kind]) for kind in Fault]
        rows += [_row(f"runs: {kind}", count, 0) for kind, count in sorted(self.kinds.items())]
        rows.append(_row("runs repeated, the same again", self.repeated, 0))
        rows.append(
            _row(
                "calls that the light ledger and the contracts answer alike",
                self.calls,
                len(self.differences),
                refused_by_both=self.refused,
            )
        )
        return rows


def _row(name: str, count: int, violations: int, **more: Any) -> dict[str, Any]:
    return {"row": name, "count": count, "violations": violations, "target": 0, **more}


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign or replay a seed; the exit status."""
    options = _options(arguments)
    if options.replay is not None:
        return _replay(options.replay)
    runs = options.runs if options.runs is not None else QUICK_RUNS if options.quick else RUNS
    deadline_s = time.monotonic() + 60 * options.budget_minutes
    tally, told_s = Tally(), time.monotonic()
    print(f"{runs} runs from seed {options.seed}, at most {options.budget_minutes:g} minutes", flush=True)
    for one in _runs(range(options.seed, options.seed + runs), options.processes, deadline_s):
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


def _runs(seeds: Iterable[int], processes: int, deadline_s: float) -> Iterator[Run]:
    """Runs, in the order of their seeds, until time is up."""
    if processes == 1:
        for seed in seeds:
            if time.monotonic() >= deadline_s:
                return
            yield run(seed)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for one in pool.map(run, seeds, chunksize=10):
            yield one
            if time.monotonic() >= deadline_s:
                pool.shutdown(cancel_futures=True)
                return


def _verdict(options: argparse.Namespace, runs: int, tally: Tally) -> int:
    print(f"\n{'faults':<24}{'count':>12}")
    for kind in Fault:
        print(f"{kind:<24}{tally.faults[kind]:>12,}")
    print(f"{'all':<24}{tally.faults.total():>12,}\n")
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.kinds.items())))
    print(f"{tally.steps:,} steps, {tally.virtual_s / 86_400:,.1f} days of chain time")
    print(
        f"seeds {options.seed} to {options.seed + tally.runs - 1}; {tally.repeated} of them run twice, the same again"
    )
    print(f"{tally.calls:,} calls played on the contracts too, {tally.refused:,} of them refused by both")
    for difference in tally.differences:
        print(f"light ledger: {difference}")
    violations = sum(len(found) for found in tally.failing.values())
    for seed, found in sorted(tally.failing.items()):
        print(f"seed {seed} ({len(found)}): python -m benchmarks.faults --replay {seed}")
    is_good = not violations and not tally.differences
    short = "" if tally.runs == runs else f" (time was up after {tally.runs} of {runs} runs)"
    print(
        f"{'ok' if is_good else 'FAILED'}: {tally.runs:,} runs, {tally.faults.total():,} faults, {violations} violations{short}"
    )
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
