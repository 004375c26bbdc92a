"""Whole federations in virtual time: real nodes, chain, sealing and training, driven turn by turn.

A ``Stage`` is one chain, one store and a cast of nodes. ``play`` gives every node its turn and then lets some
seconds of chain time pass, so deadlines come without waiting, and the same script always gives the same job.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from benchmarks.things import COLUMNS, MASKED_HIDDEN, MASKING, PLAN, clouds, compiled_job, seed_of

from chain_nodes import anvil, embedded, node, start_anvil  # noqa: F401  fixtures
from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.cli import main as galaxy
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.nodes.auditor import AuditReport
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.site import Site
from galaxylearning.ports import Call, Trainer
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.simulation import stage as stages
from galaxylearning.simulation.stage import (
    EVALUATORS,
    GENESIS_S,
    Node,
    found_town,
    sealing_key,
    signer,
)
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.shelf import CatalogueShelf
from galaxylearning.units import Address
from machines import PASSPHRASE, Machines

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_S = 600
MASKED_EVALUATORS = tuple(f"evaluator-{number}" for number in range(1, 6))
OWNERS = ("north", "east", "south", "west")


@dataclass(frozen=True)
class Outcome:
    """What is compared between federations."""

    state: JobState
    paid: Mapping[str, int]
    model: str
    totals: Mapping[str, int]
    faulty: set[str]
    transactions: Mapping[str, int]
    balances: Mapping[str, int]
    stakes: Mapping[str, int]
    audit: AuditReport
    public_audit: AuditReport


@dataclass
class Stage(stages.Stage):
    """A stage with data owners that have files, catalogues and policies."""

    blobs: MemoryBlobStore
    killed: type[BaseException] | None = KeyboardInterrupt

    def add_owner(
        self,
        name: str,
        *,
        rows: int = 48,
        policy: OwnerPolicy | None = None,
        columns: Sequence[str] = COLUMNS,
        kind: type[DataOwnerNode] = DataOwnerNode,
        site: Callable[[], Site] | None = None,
        trainer: Callable[[], Trainer] = ThreadTrainer,
    ) -> None:
        """A data owner with a CSV file, a catalogue and a policy."""
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir()
            write_csv(folder / "things.csv", records_of(name, rows), columns)
            DatasetCatalog(folder / "data.sqlite").add(
                "things",
                folder / "things.csv",
                "kind",
                kinds=dict.fromkeys(columns, "number"),
                units=dict.fromkeys(columns, "mm"),
                entropy=os.urandom,
            )
        allowed = policy or OwnerPolicy(requesters=(signer("requester").address,), datasets=("things",))

        def make() -> Node:
            return kind(
                self.site(name) if site is None else site(),
                sealing_key(name),
                shelf=CatalogueShelf(DatasetCatalog(folder / "data.sqlite")),
                trainer=trainer(),
                policy=lambda: allowed,
                jobs=frozenset([self.job_id]),
            )

        self.cast(name, make)

    async def staked(self, name: str) -> int:
        """Stake of an evaluator."""
        return int((await self.ledger.read(Call("registry", "evaluator", (signer(name).address,))))["staked"])

    async def outcome(self) -> Outcome:
        """The end of a settled job, audited with the first evaluator's key and without."""
        state = await self.state()
        assert state.phase is Phase.SETTLED
        table = next(iter((await self.tables()).values()))
        names = {signer(name).address: name for name in self.nodes}
        actors = (*self.nodes, "requester", *self.evaluators)
        return Outcome(
            state=state,
            paid=await self.paid(),
            model=state.model_digest.hex(),
            totals={names[Address(total.data_owner)]: total.value for total in table.totals},
            faulty={
                name
                for name in self.evaluators
                if state.faulty_seats >> state.evaluators.index(signer(name).address) & 1
            },
            transactions={name: await self.transactions(name) for name in actors},
            balances={name: await self.balance(signer(name).address) for name in actors}
            | {"jobs": await self.balance(self.ledger.address_of("jobs"))},
            stakes={name: await self.staked(name) for name in self.evaluators},
            audit=await self.audit(sealing_key(self.evaluators[0])),
            public_audit=await self.audit(),
        )

    def sealing_key(self, name: str) -> SealingKey:
        """The sealing key of an actor."""
        return sealing_key(name)

    def name_of(self, account: str) -> str:
        """Who on stage has this account."""
        return next(name for name in self.nodes if signer(name).address == account)

    def account(self, name: str) -> Address:
        """The account of an actor."""
        return signer(name).address

    def told(self, step: str) -> list[str]:
        """Details of every progress report of this step."""
        return [str(one.facts.get("detail", one.facts)) for one in self.progress if one.step == step]


@dataclass(frozen=True)
class Town:
    """Where stages are set up: contracts deployed, evaluators registered and staked, a job compiled."""

    folder: Path
    deployment: Deployment
    key_blobs: tuple[bytes, ...]
    compiled: CompiledJob
    evaluators: tuple[str, ...] = EVALUATORS

    @asynccontextmanager
    async def stage(self, folder: Path, **changes: Any) -> AsyncIterator[Stage]:
        """A stage of its own, its job posted; ``changes`` are those of the job."""
        folder.mkdir(exist_ok=True)
        shutil.copy(self.folder / "chain.sqlite", folder / "chain.sqlite")
        time: list[Stage] = []
        chain = EmbeddedChain(
            folder / "chain.sqlite", now=lambda: time[0].time_s if time else GENESIS_S + 100
        )
        with chain:
            ledger = await connect(chain, self.deployment)
            blobs = MemoryBlobStore()
            for blob in self.key_blobs:
                await blobs.put(blob, topic="keys")
            made = Stage(
                folder, chain, ledger, blobs, GENESIS_S + 100, os.urandom, evaluators=self.evaluators
            )
            time.append(made)
            await made.post(replace(self.compiled, job=replace(self.compiled.job, **changes)))
            yield made

    @asynccontextmanager
    async def full_stage(self, folder: Path, **changes: Any) -> AsyncIterator[Stage]:
        """A stage with four honest data owners, honest evaluators and a relayer."""
        async with self.stage(folder, **changes) as made:
            for name in OWNERS:
                made.add_owner(name)
            for name in self.evaluators:
                made.add_evaluator(name)
            made.add_relayer()
            yield made


def records_of(name: str, rows: int) -> Mapping[str, NDArray[Any]]:
    """What a data owner has: always the same for the same name."""
    return clouds(rows, seed=seed_of(name))


def write_csv(path: Path, data: Mapping[str, NDArray[Any]], columns: Sequence[str]) -> None:
    """The data under these column names, in the order of ``COLUMNS``."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "kind"])
        for values in zip(*(data[name] for name in COLUMNS), data["kind"], strict=True):
            writer.writerow([*(repr(float(value)) for value in values[:-1]), values[-1]])


async def _found(folder: Path, seats: tuple[str, ...]) -> Deployment:
    with EmbeddedChain(folder / "chain.sqlite", now=lambda: GENESIS_S) as chain:
        return await found_town(chain, folder, entropy=os.urandom, seats=seats)


def built_town(folder: Path, compiled: CompiledJob, seats: tuple[str, ...]) -> Town:
    """Contracts and evaluators for a compiled job."""
    deployment = anyio.run(_found, folder, seats)
    return Town(folder, deployment, tuple(sealing_key(name).public for name in seats), compiled, seats)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """Contracts, evaluators and a compiled job, once for all federations."""
    return built_town(tmp_path_factory.mktemp("town"), compiled_job(), EVALUATORS)


@pytest.fixture(scope="session")
def masked_town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """The same with five evaluators and a masked job, its model large enough for it."""
    plan = msgspec.structs.replace(PLAN, minimum_owners=3)
    compiled = compiled_job(MASKED_HIDDEN, plan=plan, privacy="masked", masking=MASKING)
    return built_town(tmp_path_factory.mktemp("masked-town"), compiled, MASKED_EVALUATORS)


@pytest.fixture(scope="session")
def undisturbed(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A federation in which everybody does what they should."""

    async def main() -> Outcome:
        async with town.full_stage(tmp_path_factory.mktemp("undisturbed")) as stage:
            await stage.play()
            return await stage.outcome()

    return anyio.run(main)


@pytest.fixture(scope="session")
def masked(masked_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A masked federation in which everybody does what they should."""

    async def main() -> Outcome:
        async with masked_town.full_stage(tmp_path_factory.mktemp("masked")) as stage:
            await stage.play()
            return await stage.outcome()

    return anyio.run(main)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    """Processes of ``galaxy``, which end with the test."""
    monkeypatch.setenv("GALAXY_PASSPHRASE", PASSPHRASE)
    found = Machines(tmp_path)
    yield found
    found.close()


@dataclass(frozen=True)
class DemoRun:
    """A finished demo: how it was asked for, its home and what it printed."""

    arguments: tuple[str, ...]
    home: Path
    document: Mapping[str, Any]


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """A small demo on the embedded chain, once for all who only read it."""
    home = tmp_path_factory.mktemp("demo") / "home"
    arguments = ("demo", "--owners", "5", "--rounds", "2", "--format", "json")
    output = io.StringIO()
    with redirect_stdout(output), pytest.raises(SystemExit) as ended:
        galaxy([*arguments, "--home", str(home)])
    assert ended.value.code == 0
    return DemoRun(arguments, home, json.loads(output.getvalue()))
