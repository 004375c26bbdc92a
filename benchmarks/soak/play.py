"""The soak itself: jobs one after the other, each looked at once it is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.soak import cast
from benchmarks.soak.judge import Count, Judge
from benchmarks.soak.resources import MEGABYTE, Held, bytes_under, drift_percent, held
from benchmarks.soak.town import ROUNDS, WINDOW_S, Town, job_of, open_town, sealing_key, signer

from galaxylearning.errors import GalaxyError
from galaxylearning.nodes import requester
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.simulation.faults import LATE_S, Fault
from galaxylearning.simulation.virtual_time import VirtualLoop

LOOK_S: Final = 60.0
LONGEST_S: Final = (2 * ROUNDS + 7) * WINDOW_S
"""All of a job's windows, and some time to act."""
TOLD_EVERY: Final = 10
LONGEST_DRIFT_PERCENT: Final = 5
PATHS: Final = {"chain": "chain.sqlite", "journals": "journals", "store": "store"}


@dataclass
class Soaked:
    """What came of it."""

    nodes: int = 0
    jobs: int = 0
    counts: Mapping[str, Count] = field(default_factory=dict)
    faults: Counter[Fault] = field(default_factory=Counter)
    held: list[Held] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Nodes whose process ended, and of what."""
    bytes_per_job: dict[str, int] = field(default_factory=dict)
    virtual_s: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that did not hold, in words."""
        return [*self.ended, *(what for count in self.counts.values() for what in count.problems)]

    @property
    def drift_percent(self) -> float:
        """Growth of memory; see ``resources.drift_percent``."""
        return drift_percent([one.rss_bytes for one in self.held])

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """What is written to the results."""
        found = [
            _row(name, count.count, len(count.found)) | {"target": count.allowed}
            for name, count in self.counts.items()
        ]
        found[0] |= {"seed": seed, "virtual_days": round(self.virtual_s / 86_400, 2)}
        found.append(_row("nodes that never stopped", self.nodes, len(self.ended)))
        found.append(_row("faults", self.faults.total(), 0))
        rss = [one.rss_bytes // MEGABYTE for one in self.held]
        drift = _row("memory drift, %", self.jobs, round(self.drift_percent, 2))
        found.append(drift | {"target": LONGEST_DRIFT_PERCENT, "rss_mb_every_tenth_job": rss[::TOLD_EVERY]})
        for name in ("open_files", "threads"):
            first, last = (getattr(self.held[place], name) for place in (len(self.held) // 10, -1))
            found.append(
                _row(f"{name.replace('_', ' ')} more than when warm", self.jobs, max(0, last - first))
            )
        for name, size in self.bytes_per_job.items():
            found.append(_row(f"{name}, bytes per job", self.jobs, 0) | {"bytes_per_job": size})
        return found


def _row(name: str, count: int, violations: float) -> dict[str, Any]:
    return {"row": name, "count": count, "violations": violations, "target": 0}


def soak(folder: Path, *, jobs: int, seed: int, tell: Callable[[str], None]) -> Soaked:
    """Let one set of nodes serve ``jobs`` jobs; everything lies in ``folder``. ``tell`` hears how it goes."""
    loop = VirtualLoop.seeded(f"soak order {seed}")
    try:
        return loop.run(_soak(folder, loop, jobs, seed, tell))
    finally:
        loop.close()


async def _soak(folder: Path, loop: VirtualLoop, jobs: int, seed: int, tell: Callable[[str], None]) -> Soaked:
    found = Soaked()
    async with open_town(folder, loop, seed) as town:
        lives = {name: loop.create_task(node.run(), name=name) for name, node in town.nodes().items()}
        found.nodes = len(lives)
        judge = Judge(town)
        found.counts, found.faults = judge.counts, town.source.counts
        poster = _Poster(town)
        sizes = _sizes(folder)
        for number in range(1, jobs + 1):
            await _job(town, judge, poster, number, seed, tell)
            found.jobs = number
            found.held.append(held())
            if number % TOLD_EVERY == 0 or number == jobs:
                tell(_line(number, found.held))
            for name, life in list(lives.items()):
                if life.done():
                    found.ended.append(f"{name} ended: {life.exception()!r}")
                    del lives[name]
        judge.sum_up()
        found.virtual_s = loop.time()
        found.bytes_per_job = {name: (size - sizes[name]) // jobs for name, size in _sizes(folder).items()}
        while alive := [life for life in lives.values() if not life.done()]:
            # Whoever just ends a wait of its own may miss a cancellation: it is asked again.
            for life in alive:
                life.cancel()
            await asyncio.wait(alive, timeout=LOOK_S)
    return found


async def _job(
    town: Town, judge: Judge, poster: _Poster, number: int, seed: int, tell: Callable[[str], None]
) -> None:
    """Post a job, wait until it is over, look at it. Every other one is masked."""
    privacy = "masked" if number % 2 == 0 else "sealed"
    job_id = await poster.post(seed * 1_000 + number, privacy)
    latest_s = town.loop.time() + LONGEST_S
    while not judge.is_over(await judge.state(job_id)) and town.loop.time() < latest_s:
        await asyncio.sleep(LOOK_S)
    # The evaluators release the model to the requester once they have seen that the job is settled.
    await asyncio.sleep(3 * LOOK_S)
    for what in await judge.take(job_id):
        tell(f"{privacy} {what}")


class _Poster:
    """The requester, who looks at the chain before it posts a job again."""

    def __init__(self, town: Town) -> None:
        self._town, self._site, self._last = town, town.site("requester"), 0
        self._view = ChainView(town.ledger, town.blobs)

    async def post(self, seed: int, privacy: str) -> int:
        """The number of the posted job."""
        while True:
            try:
                posted = await requester.post(
                    self._site,
                    job_of(seed, privacy),
                    evaluators=[signer(name).address for name in cast.EVALUATORS],
                    sealing_key=sealing_key("requester"),
                )
            except GalaxyError:
                await asyncio.sleep(LATE_S[1])
                newest = await self._newest()
                if newest == self._last:
                    continue
                self._last = newest
            else:
                self._last = posted.job_id
            return self._last

    async def _newest(self) -> int:
        """The last job on the chain; numbers count from 1."""
        await self._view.refresh()
        newest = max(self._view.job_ids, default=self._last)
        for job_id in self._view.job_ids:
            self._view.forget(job_id)
        return newest


def _sizes(folder: Path) -> dict[str, int]:
    found = {}
    for name, path in PATHS.items():
        here = folder / path
        found[name] = bytes_under(here) if here.is_dir() else here.stat().st_size
    return found


def _line(number: int, held_after: list[Held]) -> str:
    now, before = held_after[-1], held_after[max(0, len(held_after) - 1 - TOLD_EVERY)]
    jobs = min(TOLD_EVERY, max(1, len(held_after) - 1))
    return (
        f"{number:>4} jobs: {now.rss_bytes / MEGABYTE:.1f} MB resident, "
        f"{(now.cpu_s - before.cpu_s) / jobs:.2f} CPU s a job, {now.open_files} open files, "
        f"{now.threads} threads"
    )
