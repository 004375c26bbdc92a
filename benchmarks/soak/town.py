"""Where the soak takes place: a chain and a store on disk, twenty nodes that never stop, mild faults."""

from __future__ import annotations

import csv
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmarks.faults.scenario import CALM, NEVER, RATES
from benchmarks.soak import cast
from benchmarks.things import COLUMNS, DATASET, clouds, compiled_job, seed_of, windows
from torch import nn

from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.messages.plan import Plan
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.seating import Seating
from galaxylearning.nodes.site import Site
from galaxylearning.ports import Journal, Ledger
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.job import CompiledJob, Price
from galaxylearning.simulation import stage
from galaxylearning.simulation.faults import Fault, FaultSource, Weather, chance
from galaxylearning.simulation.faulty_ports import (
    FaultyBlobs,
    FaultyClock,
    FaultyJournal,
    FaultyLedger,
    StoreRoom,
    Wire,
)
from galaxylearning.simulation.stage import GENESIS_S, found_town, publish_keys
from galaxylearning.simulation.virtual_time import VirtualLoop, WaywardClock
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal, SqliteJournal
from galaxylearning.storage.shelf import CatalogueShelf

POLL_S: Final = 30.0
STAGGER_S: Final = 10 * POLL_S
"""So that whoever faults hold up for some polls is waited for: with a liar among five, four are too few."""
WINDOW_S: Final = 900
ROUNDS: Final = 2
ROWS, TEST_ROWS = 200, 64
HIDDEN_UNITS: Final = {"sealed": 8, "masked": 80}
STAKE: Final = 1_000 * 10**18
"""What an evaluator deposits; a seat takes one token of it, so that a liar can afford a hundred lies."""
DEADLY: Final = (Fault.CRASH,)
"""Nodes do not die here: what they let grow would be freed."""

signer = cache(stage.signer)
sealing_key = cache(stage.sealing_key)


@cache
def compiled(privacy: str) -> CompiledJob:
    """The job that is posted again and again."""
    plan = Plan(
        rounds=ROUNDS,
        learning_rate=0.3,
        steps=4,
        batch_size=32,
        clip_norm=2.0,
        minimum_owners=6,
        maximum_owners=len(cast.OWNERS),
    )
    return compiled_job(
        HIDDEN_UNITS[privacy],
        activation=nn.Tanh,
        test_rows=TEST_ROWS,
        plan=plan,
        price=Price(bounty="1000", target_gain=0.8, fee_per_seat="10", seat_stake="1"),
        windows=windows(WINDOW_S),
        privacy=privacy,
    )


def job_of(seed: int, privacy: str) -> CompiledJob:
    """The job of a seed: other batches and questions each time."""
    found = compiled(privacy)
    return replace(found, job=replace(found.job, seed=seed))


def weather(seed: int) -> Weather:
    """Mild faults without end."""
    roughness = chance(f"soak weather {seed}").uniform(CALM[0], 2 * CALM[0])
    rates: dict[Fault, float] = {
        kind: roughness * weight for kind, weight in RATES.items() if kind not in DEADLY
    }
    return Weather(rates, NEVER)


@dataclass
class Town:
    """The chain, the store, and whoever stands on them; ``told`` counts what nodes gave up."""

    folder: Path
    loop: VirtualLoop
    chain: EmbeddedChain
    ledger: Ledger
    blobs: FolderBlobStore
    source: FaultSource
    stack: AsyncExitStack
    room: StoreRoom = field(init=False)
    given_up: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.room = StoreRoom(self.blobs, self.source)

    def chain_now(self) -> int:
        """Chain time, Unix seconds."""
        return GENESIS_S + int(self.loop.time())

    def site(self, name: str) -> Site:
        """An actor's ports, with faults, and its journal on disk."""
        wire = Wire(self.source, name)
        # A record that is cut off is a node's death too.
        dry: dict[Fault, float] = {
            kind: rate for kind, rate in self.source.weather.rates.items() if kind is not Fault.TORN_WRITE
        }
        journal = self.stack.enter_context(SqliteJournal(self.folder / "journals" / f"{name}.sqlite"))
        return Site(
            ledger=FaultyLedger(self.ledger, wire, chain_now=self.chain_now),
            blobs=FaultyBlobs(self.room, wire),
            clock=FaultyClock(self.source, name),
            journal=FaultyJournal(journal, self.source.under(Weather(dry, NEVER)), name),
            signer=signer(name),
            entropy=os.urandom,
            report=lambda progress: self._hear(name, progress.step, progress.facts),
            poll_s=POLL_S,
        )

    def passer_by(self, journal: Journal | None = None) -> Site:
        """The ports of somebody whom nothing happens to."""
        return Site(
            ledger=self.ledger,
            blobs=self.blobs,
            clock=WaywardClock(),
            journal=journal or MemoryJournal(),
            signer=signer("passer-by"),
            entropy=os.urandom,
        )

    def _hear(self, name: str, step: str, facts: Any) -> None:
        if step in ("given up", "not enrolled"):
            self.given_up.append(f"{name}: {step}: {facts}")

    # ---- the twenty

    def nodes(self) -> dict[str, Any]:
        """Five evaluators, fourteen data owners and a relayer, by name; for every job that comes."""
        found: dict[str, Any] = {}
        for name in cast.EVALUATORS:
            kind = cast.EVALUATOR_KINDS.get(name, EvaluatorNode)
            found[name] = kind(self.site(name), sealing_key(name), stagger_s=STAGGER_S, seating=Seating(60))
        for name in cast.OWNERS:
            found[name] = self._data_owner(name)
        found["relayer"] = RelayerNode(self.site("relayer"))
        return found

    def _data_owner(self, name: str) -> DataOwnerNode:
        policy = OwnerPolicy(requesters=(signer("requester").address,), datasets=(DATASET,))
        trainer = cast.FreeRider() if name == cast.FREE_RIDER else cast.HonestTrainer()
        return cast.OWNER_KINDS.get(name, DataOwnerNode)(
            self.site(name),
            sealing_key(name),
            shelf=CatalogueShelf(_catalogue(self.folder / "owners" / name, name)),
            trainer=trainer,
            policy=lambda: policy,
        )


def _catalogue(folder: Path, name: str) -> DatasetCatalog:
    """A data owner's file and its description; the shuffler's labels belong to other rows."""
    folder.mkdir(parents=True)
    table = clouds(ROWS, seed=seed_of(name))
    labels = table["kind"]
    if name == cast.SHUFFLER:
        labels = np.random.default_rng(1).permutation(labels)
    with (folder / "things.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "kind"])
        for *values, label in zip(*(table[column] for column in COLUMNS), labels, strict=True):
            writer.writerow([*(repr(float(value)) for value in values), label])
    catalogue = DatasetCatalog(folder / "data.sqlite")
    catalogue.add(
        DATASET,
        folder / "things.csv",
        "kind",
        kinds=dict.fromkeys(COLUMNS, "number"),
        units=dict.fromkeys(COLUMNS, "mm"),
        entropy=os.urandom,
    )
    return catalogue


@asynccontextmanager
async def open_town(folder: Path, loop: VirtualLoop, seed: int) -> AsyncIterator[Town]:
    """Contracts deployed, evaluators registered and staked, nobody at work yet."""
    async with AsyncExitStack() as stack:
        chain = stack.enter_context(
            EmbeddedChain(folder / "chain.sqlite", now=lambda: GENESIS_S + int(loop.time()))
        )
        deployment = await found_town(chain, folder, entropy=os.urandom, seats=cast.EVALUATORS)
        blobs = FolderBlobStore(folder / "store")
        await publish_keys(blobs, cast.EVALUATORS)
        source = FaultSource(weather(seed), chance(f"soak faults {seed}"))
        town = Town(folder, loop, chain, await connect(chain, deployment), blobs, source, stack)
        for name in cast.EVALUATORS:
            site = replace(town.passer_by(), signer=signer(name))
            await evaluators.register(site, sealing_key(name), STAKE)
        yield town
