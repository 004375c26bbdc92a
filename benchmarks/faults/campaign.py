"""The campaign: seeds worked off in one process or several, and what came of all of them."""

from __future__ import annotations

import atexit
import multiprocessing
import shutil
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
from benchmarks.faults import fidelity
from benchmarks.faults.checks import checked
from benchmarks.faults.scenario import scenario

from galaxylearning.simulation.faults import Fault

REPEAT_EVERY: Final = 50
"""Every so many runs one is run twice, and must come out the same; and it is played on the contracts too."""
CHUNK: Final = 10


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


def runs_of(seeds: Iterable[int], processes: int, deadline_s: float) -> Iterator[Run]:
    """Runs, in the order of their seeds, until time is up."""
    if processes == 1:
        for seed in seeds:
            if time.monotonic() >= deadline_s:
                return
            yield run(seed)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for one in pool.map(run, seeds, chunksize=CHUNK):
            yield one
            if time.monotonic() >= deadline_s:
                pool.shutdown(cancel_futures=True)
                return
