"""One run: the real nodes of a whole job on a virtual clock, with faults, to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from benchmarks.faults.oracle import Made, OneHotTrainer, compiled, shelf
from benchmarks.faults.scenario import EVALUATORS, NEVER, Scenario, milder
from benchmarks.faults.seeded_sealing import seeded_sealing
from benchmarks.things import DATASET
from blake3 import blake3

from galaxylearning.errors import DiskFull, GalaxyError
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes import requester
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.seating import Seating
from galaxylearning.nodes.site import Progress, Site
from galaxylearning.ports import Call, Contract, Event
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.simulation import stage
from galaxylearning.simulation.faults import LATE_S, Fault, FaultSource, Incident, NodeDied, chance
from galaxylearning.simulation.faulty_ports import (
    FaultyBlobs,
    FaultyClock,
    FaultyJournal,
    FaultyLedger,
    StoreRoom,
    Wire,
)
from galaxylearning.simulation.light_ledger import LightLedger
from galaxylearning.simulation.stage import GENESIS_S, STAKE, SUPPLY
from galaxylearning.simulation.virtual_time import VirtualLoop, WaywardClock
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.units import Address

JOB_ID: Final = 1
POLL_S: Final = 20.0
STAGGER_S: Final = 20.0
DOWN_S: Final = (5.0, 60.0)
"""How long a node that died stays down."""
LOOK_S: Final = 30.0
STILL_S: Final = 400.0
"""So long faults go on once the job has ended: payments, fees, refunds and the model are still due."""
AFTERWARDS_S: Final = 3_000.0
"""How long nodes may take to finish once the job has ended and nothing goes wrong any more."""

signer = cache(stage.signer)
sealing_key = cache(stage.sealing_key)

ADDRESSES: Final[Mapping[Contract, Address]] = {
    name: signer(f"contract {name}").address for name in ("jobs", "registry", "token")
}


@dataclass
class Played:
    """What came of a run: everything the checks look at."""

    scenario: Scenario
    ledger: LightLedger
    blobs: MemoryBlobStore
    source: FaultSource
    made: Made
    journals: dict[str, MemoryJournal] = field(default_factory=dict)
    told: list[tuple[float, str, Progress]] = field(default_factory=list)
    full: set[str] = field(default_factory=set)
    """Nodes that told their operator of a full disk."""
    unfinished: list[str] = field(default_factory=list)
    """Nodes that had not finished in time after the job had ended."""
    fatal: list[str] = field(default_factory=list)
    """Errors that ended a node's process."""
    ended_at_s: float | None = None
    """When the job was settled or aborted."""
    had_help: bool = False
    """Whether a passer-by had to end the job because no evaluator was left."""
    steps: int = 0
    fingerprint: str = ""

    @property
    def state(self) -> JobState | None:
        """Where the job stands on chain; None where it was never posted."""
        job = self.ledger.jobs.jobs.get(JOB_ID)
        return None if job is None else job.state

    @property
    def incidents(self) -> list[Incident]:
        """Faults in order, where the source kept them."""
        return self.source.trace


class _Play:
    """The run under way."""

    def __init__(
        self,
        scenario: Scenario,
        loop: VirtualLoop,
        source: FaultSource,
        addresses: Mapping[Contract, Address],
    ) -> None:
        self.scenario, self.loop = scenario, loop
        self.ahead_s = 0
        self.milder = source.under(milder(scenario.weather))
        ledger = LightLedger(addresses, now=self.chain_now, keeps_transactions=True)
        self.played = Played(scenario, ledger, MemoryBlobStore(), source, Made())
        self.room = StoreRoom(self.played.blobs, source)
        self.job = compiled(scenario.privacy, scenario.rounds, len(scenario.owners))
        self._entropies: dict[str, Callable[[int], bytes]] = {}

    def chain_now(self) -> int:
        """The chain's time: the loop's, and ahead by its jumps."""
        return GENESIS_S + int(self.loop.time()) + self.ahead_s

    # ---- sites

    def site(self, name: str, *, is_faulty: bool = True) -> Site:
        """An actor's ports; its journal is the same in every life."""
        played = self.played
        source = self.milder if name == "requester" else played.source
        journal = played.journals.setdefault(name, MemoryJournal())
        entropy = self._entropies.setdefault(name, chance(f"{name} {self.scenario.seed}").randbytes)

        def report(progress: Progress) -> None:
            played.told.append((self.loop.time(), name, progress))

        def pulse(error: GalaxyError | None) -> None:
            if isinstance(error, DiskFull):
                played.full.add(name)

        if not is_faulty:
            return Site(played.ledger, played.blobs, WaywardClock(), journal, signer(name), entropy)
        wire = Wire(source, name)
        return Site(
            ledger=FaultyLedger(played.ledger, wire, chain_now=self.chain_now),
            blobs=FaultyBlobs(self.room, wire),
            clock=FaultyClock(source, name),
            journal=FaultyJournal(journal, source, name),
            signer=signer(name),
            entropy=entropy,
            report=report,
            pulse=pulse,
            poll_s=POLL_S,
        )

    def make(self, name: str) -> Any:
        """A node at the start of a life."""
        site = self.site(name)
        if name in EVALUATORS:
            return EvaluatorNode(
                site, sealing_key(name), jobs=[JOB_ID], stagger_s=STAGGER_S, seating=Seating(60)
            )
        if name == "relayer":
            return RelayerNode(site, jobs=[JOB_ID])
        policy = OwnerPolicy(requesters=(signer("requester").address,), datasets=(DATASET,))
        return DataOwnerNode(
            site,
            sealing_key(name),
            shelf=shelf(name),
            trainer=OneHotTrainer(self.job, self.scenario.owners.index(name), self.played.made),
            policy=lambda: policy,
            jobs=frozenset([JOB_ID]),
            is_direct=name in self.scenario.direct,
        )

    # ---- lives

    async def live(self, name: str) -> None:
        """A node from its first start to its end, through every death."""
        away = sorted((one for one in self.scenario.absences if one.node == name), key=lambda one: one.at_s)
        while True:
            task = self.loop.create_task(self.make(name).run())
            leave = away[0] if away else None
            if leave is not None:
                wait_s = max(0.0, leave.at_s - self.loop.time())
                await asyncio.wait([task], timeout=wait_s)
                if not task.done():
                    away.pop(0)
                    self.played.source.note(name, "leave", Fault.ABSENCE)
                    task.cancel()
                    await asyncio.wait([task])
                    if leave.for_s == NEVER:
                        return
                    await asyncio.sleep(leave.for_s)
                    continue
            try:
                await task
            except (NodeDied, BaseExceptionGroup) as death:
                if isinstance(death, BaseExceptionGroup) and death.split(NodeDied)[1] is not None:
                    raise
                await asyncio.sleep(self.played.source.between(DOWN_S))
            except GalaxyError as error:
                # The process ends with this message; whoever watches over it starts it again.
                self.played.fatal.append(
                    f"{name} at {self.loop.time():.0f} s: {type(error).__name__}: {error}"
                )
                await asyncio.sleep(self.played.source.between(DOWN_S))
            else:
                return

    async def request(self) -> None:
        """The requester posts the job, looking at the chain before it tries again."""
        while True:
            try:
                await requester.post(
                    self.site("requester"),
                    self.job,
                    evaluators=[signer(name).address for name in EVALUATORS],
                    sealing_key=sealing_key("requester"),
                )
                return
            except (GalaxyError, NodeDied):
                await asyncio.sleep(LATE_S[1])
            if self.played.state is not None:
                return

    async def shift_chain(self) -> None:
        """Let the chain's clock jump."""
        for jump in sorted(self.scenario.chain_jumps, key=lambda one: one.at_s):
            await asyncio.sleep(max(0.0, jump.at_s - self.loop.time()))
            self.ahead_s += jump.by_s
            self.played.source.note("chain", f"jump by {jump.by_s} s", Fault.CLOCK_JUMP)

    # ---- the whole

    async def found(self) -> None:
        """Tokens, registrations and stakes, before anything goes wrong."""
        for name in ("requester", *EVALUATORS):
            await self.site(name, is_faulty=False).submit(("mint", (signer(name).address, SUPPLY)), "token")
        for name in EVALUATORS:
            await evaluators.register(self.site(name, is_faulty=False), sealing_key(name), STAKE)

    async def main(self) -> Played:
        """Everything."""
        played, scenario = self.played, self.scenario
        await self.found()
        names = (*EVALUATORS, *scenario.owners, "relayer")
        lives = {name: self.loop.create_task(self.live(name)) for name in names}
        others = [self.loop.create_task(self.request()), self.loop.create_task(self.shift_chain())]
        await self._ended()
        await asyncio.wait(lives.values(), timeout=STILL_S)
        # From here on nothing new goes wrong; what is under way may.
        played.source.is_over = True
        await asyncio.wait(lives.values(), timeout=AFTERWARDS_S)
        played.unfinished = sorted(name for name, life in lives.items() if not life.done())
        for task in (*lives.values(), *others):
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()
        return played

    async def _ended(self) -> None:
        """Wait until the job has ended; if no evaluator is left to end it, a passer-by does."""
        played = self.played
        start_s = None
        while True:
            await asyncio.sleep(LOOK_S)
            state = played.state
            if state is None:
                continue
            start_s = self.loop.time() if start_s is None else start_s
            if state.phase in (Phase.SETTLED, Phase.ABORTED):
                played.ended_at_s = self.loop.time() - start_s
                return
            if self.loop.time() - start_s > self.scenario.bound_s:
                played.had_help = True
                if self.loop.time() - start_s > 4 * self.scenario.bound_s:
                    return
                if state.expires_at is not None and played.ledger.timestamp >= state.expires_at:
                    played.ledger.mine(Call("jobs", "expire", (JOB_ID,)), signer("passer-by").address)


def play(
    scenario: Scenario,
    *,
    source: FaultSource | None = None,
    addresses: Mapping[Contract, Address] = ADDRESSES,
) -> Played:
    """Run a scenario, with its own faults or those of another ``source``."""
    loop = VirtualLoop.seeded(f"order {scenario.seed}")
    faults = source if source is not None else source_of(scenario)
    run = _Play(scenario, loop, faults, addresses)
    with seeded_sealing():
        played = loop.run(run.main())
    loop.close()
    played.steps = loop.steps
    played.fingerprint = _fingerprint(played)
    return played


def source_of(scenario: Scenario, *, keeps_trace: bool = False) -> FaultSource:
    """The faults of a scenario."""
    return FaultSource(scenario.weather, chance(f"faults {scenario.seed}"), keeps_trace)


def passer_by(played: Played) -> Site:
    """The ports of somebody who looks at a finished run, and whom nothing happens to."""
    return Site(
        ledger=played.ledger,
        blobs=played.blobs,
        clock=WaywardClock(),
        journal=MemoryJournal(),
        signer=signer("passer-by"),
        entropy=chance("passer-by").randbytes,
    )


def _fingerprint(played: Played) -> str:
    """What two runs of one seed have in common: every event, every blob, every step."""
    parts = [repr(_plain(event)).encode() for event in played.ledger.log]
    parts += [bytes(digest) for digest in played.blobs.digests()]
    parts.append(repr((played.steps, sorted(played.source.counts.items()))).encode())
    return blake3(b"".join(parts)).hexdigest()[:16]


def _plain(event: Event) -> tuple[Any, ...]:
    return event.name, event.block.number, event.timestamp, sorted(event.arguments.items())
