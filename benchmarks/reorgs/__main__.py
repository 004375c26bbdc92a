"""Whole jobs on anvil while it takes blocks back: ``python -m benchmarks.reorgs [--seed S] [--quick]``.

Small jobs, three evaluators and three data owners, two rounds, each node with a connection of its own.
Between any two things that nodes ask of the chain, up to 32 blocks may go; of their transactions none, some
or all are mined again. A sealed job must end as on a chain that stands still: same roots, models, payments,
balances, audit. A masked job draws its questions from the anchors' blocks, so it must settle, pass its audit,
and no member may answer two questions in one place. Where more goes than was final, every node must halt,
sign nothing more, and refuse to start again. Writes ``benchmarks/results/reorgs.json``; ends with status 1 on
a violation. One play again: ``--replay sealed:7``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import anyio
from benchmarks.machine import Machine
from benchmarks.reorgs.anvil import Chain, open_chain, running_anvil
from benchmarks.reorgs.play import Ending, Play, deeper_than_final
from benchmarks.reorgs.storm import MAX_DEPTH
from benchmarks.reorgs.town import MASKED, SEALED, compiled_job, found_town, remembered_sealing

from galaxylearning.chain.deployment import Deployment
from galaxylearning.protocol.job import CompiledJob

RESULTS: Final = Path(__file__).parents[1] / "results" / "reorgs.json"
WANTED: Final = {"sealed": 1_000, "masked": 200, "deeper": 10}
QUICK: Final = {"sealed": 40, "masked": 10, "deeper": 2}
OFTEN: Final = 0.1
DEEPER_FINALITY_BLOCKS: Final = 6
DEPTHS: Final = ((1, 8), (9, 16), (17, 24), (25, MAX_DEPTH))


@dataclass
class Found:
    """What was counted: reorganisations by phase and by depth, jobs by kind, halts; and what went wrong."""

    phases: Counter[str] = field(default_factory=Counter)
    depths: Counter[int] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    wrong_phases: Counter[str] = field(default_factory=Counter)
    wrong_depths: Counter[int] = field(default_factory=Counter)
    wrong_jobs: Counter[str] = field(default_factory=Counter)

    def take(self, kind: str, ending: Ending, problems: Sequence[str]) -> None:
        """Count one play."""
        self.jobs[kind] += 1
        self.wrong_jobs[kind] += bool(problems)
        for (phase, depth), times in ending.struck.items():
            self.phases[phase] += times
            self.depths[depth] += times
            if problems:
                self.wrong_phases[phase] += times
                self.wrong_depths[depth] += times


@dataclass(frozen=True)
class Ground:
    """A chain with contracts and evaluators on it, and a job to be posted."""

    chain: Chain
    deployment: Deployment
    compiled: CompiledJob
    seats: tuple[str, ...]

    async def play(self, seed: int, often: float) -> Ending:
        """One play from here."""
        return await Play(self.chain, self.deployment, self.compiled, self.seats, seed, often).run()

    async def deeper(self, seed: int) -> tuple[int, int, list[str]]:
        """One play that ends with what was final being taken back."""
        rng = Random(seed)  # noqa: S311 - when blocks go is no secret
        play = Play(
            self.chain,
            self.deployment,
            self.compiled,
            self.seats,
            seed,
            finality_blocks=DEEPER_FINALITY_BLOCKS,
        )
        return await deeper_than_final(play, rng.randint(4, 20), rng.randint(0, 40))


@asynccontextmanager
async def _ground(*, is_masked: bool) -> AsyncIterator[Ground]:
    """A fresh chain for each play: anvil forgets states after some thousand blocks that came and went."""
    with running_anvil() as url:
        async with open_chain(url) as chain:
            seats = MASKED if is_masked else SEALED
            deployment = await found_town(url, seats)
            yield Ground(chain, deployment, compiled_job(is_masked=is_masked), seats)


class Session:
    """One run of the benchmark."""

    def __init__(self, seed: int, wanted: dict[str, int], budget_s: float) -> None:
        self.seed, self.wanted, self._budget_s = seed, wanted, budget_s
        self.found = Found()
        self._start_s = time.process_time()

    def _is_over(self) -> bool:
        return time.process_time() - self._start_s > self._budget_s

    def _tell(self, name: str, ending: Ending, problems: Sequence[str]) -> None:
        print(f"{name}: {sum(ending.struck.values())} reorganisations, {ending.turns} turns", flush=True)
        for problem in problems:
            print(f"  VIOLATION {problem}", flush=True)

    async def run(self) -> None:
        """Sealed jobs, masked jobs, and what is deeper than final."""
        async with _ground(is_masked=False) as ground:
            calm = await ground.play(self.seed, 0.0)
        self._tell("undisturbed", calm, calm.problems)
        self.found.wrong_jobs["sealed"] += bool(calm.problems)
        await self._storms("sealed", calm)
        await self._deeper()
        await self._storms("masked", None)

    async def _storms(self, kind: str, calm: Ending | None) -> None:
        done, seed = 0, self.seed
        while done < self.wanted[kind] and not self._is_over():
            async with _ground(is_masked=kind == "masked") as ground:
                ending = await ground.play(seed, OFTEN)
            problems = list(ending.problems)
            if calm is not None:
                problems += _differences(calm, ending)
            self.found.take(kind, ending, problems)
            self._tell(f"{kind}:{seed}", ending, problems)
            done += sum(ending.struck.values())
            seed += 1

    async def _deeper(self) -> None:
        for seed in range(self.seed, self.seed + self.wanted["deeper"]):
            if self._is_over():
                return
            async with _ground(is_masked=False) as ground:
                halted, refused, problems = await ground.deeper(seed)
            print(f"deeper:{seed}: {halted} halted, {refused} refused to start again", flush=True)
            for problem in problems:
                print(f"  VIOLATION {problem}", flush=True)
            self.found.jobs["deeper"] += 1
            self.found.jobs["halted"] += halted
            self.found.jobs["refused"] += refused
            self.found.wrong_jobs["halted"] += len(problems)

    def rows(self) -> list[dict[str, Any]]:
        """What was counted, as it is written."""
        found = self.found
        rows = [
            _row(f"reorganisations while {phase}", count, found.wrong_phases[phase])
            for phase, count in sorted(found.phases.items())
        ]
        for low, high in DEPTHS:
            count, wrong = (
                sum(counts[depth] for depth in range(low, high + 1))
                for counts in (found.depths, found.wrong_depths)
            )
            rows.append(_row(f"reorganisations of {low} to {high} blocks", count, wrong))
        total, wrong = sum(found.phases.values()), sum(found.wrong_phases.values())
        rows.append(_row("reorganisations", total, wrong))
        rows += [
            _row("sealed jobs that end as undisturbed", found.jobs["sealed"], found.wrong_jobs["sealed"]),
            _row(
                "masked jobs that settle and pass their audit",
                found.jobs["masked"],
                found.wrong_jobs["masked"],
            ),
            _row("deeper than final: reorganisations", found.jobs["deeper"], 0),
            _row("deeper than final: nodes that halt", found.jobs["halted"], found.wrong_jobs["halted"]),
            _row("deeper than final: nodes that refuse to start again", found.jobs["refused"], 0),
        ]
        return rows


def _row(name: str, count: int, violations: int) -> dict[str, Any]:
    return {"row": name, "count": count, "violations": violations, "target": 0}


def _differences(calm: Ending, ending: Ending) -> list[str]:
    return [
        f"{name}: {ending.facts.get(name)}, undisturbed {value}"
        for name, value in calm.facts.items()
        if ending.facts.get(name) != value
    ]


async def _replay(name: str) -> int:
    """One play again; how many problems it had."""
    kind, _, seed = name.partition(":")
    async with _ground(is_masked=kind == "masked") as ground:
        if kind == "deeper":
            halted, refused, problems = await ground.deeper(int(seed))
            print(f"{halted} halted, {refused} refused to start again")
        else:
            ending = await ground.play(int(seed), OFTEN)
            print(f"{dict(sorted(ending.struck.items()))}\n{ending.facts}")
            problems = list(ending.problems)
    if kind == "sealed":
        async with _ground(is_masked=False) as ground:
            problems += _differences(await ground.play(int(seed), 0.0), ending)
    print("\n".join(problems) or "no violation")
    return len(problems)


def main(words: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reorgs", description=__doc__)
    parser.add_argument("--budget-minutes", type=float, default=20.0, help="processor time of this process")
    parser.add_argument("--seed", type=int, default=1, help="of the first play; the others follow")
    parser.add_argument("--quick", action="store_true", help="a minute; no results are written")
    parser.add_argument("--replay", metavar="KIND:SEED", help="one play again: sealed, masked or deeper")
    given = parser.parse_args(words)
    with remembered_sealing():
        if given.replay:
            return int(anyio.run(_replay, given.replay) > 0)
        wanted = QUICK if given.quick else WANTED
        print(f"seed {given.seed}, up to {given.budget_minutes:g} core-minutes", flush=True)
        session = Session(given.seed, wanted, 60 * given.budget_minutes)
        start = time.monotonic()
        anyio.run(session.run)
    rows = session.rows()
    for row in rows:
        print(f"{row['count']:>7,} {row['violations']:>4} violations  {row['row']}")
    count = sum(session.found.phases.values())
    wrong = sum(row["violations"] for row in rows)
    is_enough = count >= wanted["sealed"] + wanted["masked"] and session.found.jobs["halted"] > 0
    verdict = "ok" if not wrong and is_enough else "violations" if wrong else "too few for a verdict"
    seconds = time.monotonic() - start
    print(f"{verdict}: {count:,} reorganisations, seed {given.seed}, {seconds:.0f} s")
    if not given.quick:
        about = {"seed": given.seed, "machine": Machine.here().fields()}
        lines = ",\n".join(json.dumps(row | about, sort_keys=True) for row in rows)
        RESULTS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return int(verdict != "ok")


if __name__ == "__main__":
    sys.exit(main())
