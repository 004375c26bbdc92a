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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import numpy as np
import pytest
import torch
from torch import nn

from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import KeySigner, connect
from galaxylearning.chain.transport import Transport, as_int
from galaxylearning.cli import main as galaxy
from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.errors import GalaxyError
from galaxylearning.messages.records import MAX_TABLE_BYTES, ScoreTable, decode
from galaxylearning.messages.terms import Column, Plan, Schema, Terms, Windows
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes import requester
from galaxylearning.nodes.auditor import Auditor, AuditReport
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.site import Board, ChainView, Progress, Site, is_passing
from galaxylearning.ports import Call, Journal, Ledger
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.job import CompiledJob, Job, Price, compile_job
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.storage.shelf import CatalogueShelf
from galaxylearning.units import Address

if TYPE_CHECKING:
    from numpy.typing import NDArray

GENESIS_S = 1_800_000_000
STEP_S = 20
WINDOW_S = 600
STAKE = 50 * 10**18
SUPPLY = 10**22
EVALUATORS = ("evaluator-1", "evaluator-2", "evaluator-3")
OWNERS = ("north", "east", "south", "west")
COLUMNS = ("height", "width")
SCHEMA = Schema(
    features=tuple(Column(name, "number", unit="mm", mean=10.0, std=2.0) for name in COLUMNS),
    label=Column("kind", "category", classes=("round", "square")),
)
PLAN = Plan(
    rounds=2, learning_rate=0.3, steps=4, batch_size=16, clip_norm=2.0, minimum_owners=2, maximum_owners=4
)


class Node(Protocol):
    """What takes turns."""

    async def turn(self) -> bool: ...


class StageClock:
    """The nodes' clock: the stage's time."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def monotonic_s(self) -> float:
        """Seconds of virtual time."""
        return float(self._stage.time_s)

    async def sleep(self, seconds: float) -> None:
        """Nobody sleeps on a stage: ``play`` calls turns."""
        raise AssertionError(f"a node slept for {seconds} s")


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
class Stage:
    """One chain, one store, one job, and who takes part in it."""

    folder: Path
    chain: EmbeddedChain
    ledger: Ledger
    blobs: MemoryBlobStore
    time_s: int
    nodes: dict[str, Node] = field(default_factory=dict)
    makers: dict[str, Callable[[], Node]] = field(default_factory=dict)
    journals: dict[str, Journal] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    job_id: int = 0
    killed: type[BaseException] = KeyboardInterrupt
    """What an actor dies of; it is made again on its journal."""
    deaths: int = 0

    def site(self, name: str, **changes: Any) -> Site:
        """The ports of one actor."""
        found = Site(
            ledger=self.ledger,
            blobs=self.blobs,
            clock=StageClock(self),
            journal=self.journals.setdefault(name, MemoryJournal()),
            signer=signer(name),
            entropy=os.urandom,
            report=self.progress.append,
            poll_s=1.0,
        )
        return replace(found, **changes)

    def board(self) -> Board:
        """The job's bulletin board as a passer-by sees it."""
        return Board(self.site("passer-by"), self.job_id)

    async def view(self) -> ChainView:
        """The chain as it is now."""
        view = ChainView(self.ledger, self.blobs)
        await view.refresh()
        return view

    async def state(self) -> JobState:
        """Where the job stands."""
        return await (await self.view()).state(self.job_id)

    async def terms(self) -> Terms:
        """The job's terms."""
        return await (await self.view()).terms(self.job_id)

    async def post(self, compiled: CompiledJob) -> None:
        """The requester posts the job, and is not seen again."""
        posted = await requester.post(
            self.site("requester"),
            compiled,
            evaluators=[signer(name).address for name in EVALUATORS],
            sealing_key=sealing_key("requester"),
        )
        self.job_id = posted.job_id

    def cast(self, name: str, make: Callable[[], Node]) -> None:
        """Let a node take part; ``make`` makes it again after its death."""
        self.makers[name] = make
        self.nodes[name] = make()

    def add_owner(
        self,
        name: str,
        *,
        rows: int = 48,
        policy: OwnerPolicy | None = None,
        columns: Sequence[str] = COLUMNS,
        kind: type[DataOwnerNode] = DataOwnerNode,
        site: Callable[[], Site] | None = None,
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
                trainer=ThreadTrainer(),
                policy=lambda: allowed,
                jobs=frozenset([self.job_id]),
            )

        self.cast(name, make)

    def add_evaluator(
        self,
        name: str,
        kind: type[EvaluatorNode] = EvaluatorNode,
        *,
        site: Callable[[], Site] | None = None,
    ) -> None:
        """An evaluator, honest unless ``kind`` says otherwise."""

        def make() -> Node:
            here = self.site(name) if site is None else site()
            return kind(here, sealing_key(name), jobs=[self.job_id], stagger_s=STEP_S)

        self.cast(name, make)

    def add_relayer(self, *, site: Callable[[], Site] | None = None) -> None:
        """Somebody who pays the gas."""

        def make() -> Node:
            return RelayerNode(self.site("relayer") if site is None else site(), jobs=[self.job_id])

        self.cast("relayer", make)

    async def play(
        self,
        *,
        until: Callable[[JobState], bool] | None = None,
        between: Callable[[], Awaitable[None]] | None = None,
        most: int = 400,
    ) -> JobState:
        """Turn after turn until all are done, or ``until`` holds; ``between`` is awaited after every turn."""
        for _ in range(most):
            done = [await self._turn(name) for name in list(self.nodes)]
            if between is not None:
                await between()
            state = await self.state()
            if until(state) if until is not None else all(done):
                return state
            self.time_s += STEP_S
        pytest.fail(f"not done after {most} turns: {state}")

    async def _turn(self, name: str) -> bool:
        try:
            return await self.nodes[name].turn()
        except self.killed:
            self.deaths += 1
            self.nodes[name] = self.makers[name]()
        except GalaxyError as error:
            if not is_passing(error):
                raise
        return False

    async def audit(self, key: SealingKey | None = None) -> AuditReport:
        """An auditor's report."""
        return await Auditor(self.site("auditor"), self.job_id, key=key).run()

    async def balance(self, account: Address) -> int:
        """Tokens of an account."""
        return int(await self.ledger.read(Call("token", "balanceOf", (account,))))

    async def staked(self, name: str) -> int:
        """Stake of an evaluator."""
        return int((await self.ledger.read(Call("registry", "evaluator", (signer(name).address,))))["staked"])

    async def transactions(self, name: str) -> int:
        """How many transactions an actor has sent."""
        count = await Transport(self.chain).request("eth_getTransactionCount", signer(name).address, "latest")
        return as_int(count)

    async def paid(self) -> dict[str, int]:
        """What the data owners on stage were paid, by name."""
        paid = {
            event.account: event.amount
            for event in (await self.view()).events_of(self.job_id)
            if isinstance(event, ev.Paid)
        }
        accounts = {name: signer(name).address for name in sorted(self.nodes)}
        return {name: paid[account] for name, account in accounts.items() if account in paid}

    async def tables(self) -> dict[str, ScoreTable]:
        """The revealed score tables by evaluator."""
        revealed = dict((await self.state()).revealed)
        return {
            name: decode(
                await self.blobs.get(revealed[signer(name).address], max_bytes=MAX_TABLE_BYTES),
                ScoreTable,
                max_bytes=MAX_TABLE_BYTES,
            )
            for name in EVALUATORS
            if signer(name).address in revealed
        }

    async def outcome(self) -> Outcome:
        """The end of a settled job, audited with the first evaluator's key and without."""
        state = await self.state()
        assert state.phase is Phase.SETTLED
        table = next(iter((await self.tables()).values()))
        names = {signer(name).address: name for name in self.nodes}
        actors = (*self.nodes, "requester", *EVALUATORS)
        return Outcome(
            state=state,
            paid=await self.paid(),
            model=state.model_digest.hex(),
            totals={names[Address(total.data_owner)]: total.value for total in table.totals},
            faulty={
                name
                for name in EVALUATORS
                if state.faulty_seats >> state.evaluators.index(signer(name).address) & 1
            },
            transactions={name: await self.transactions(name) for name in actors},
            balances={name: await self.balance(signer(name).address) for name in actors}
            | {"jobs": await self.balance(self.ledger.address_of("jobs"))},
            stakes={name: await self.staked(name) for name in EVALUATORS},
            audit=await self.audit(sealing_key(EVALUATORS[0])),
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
            made = Stage(folder, chain, ledger, blobs, GENESIS_S + 100)
            time.append(made)
            await made.post(replace(self.compiled, job=replace(self.compiled.job, **changes)))
            yield made

    @asynccontextmanager
    async def full_stage(self, folder: Path, **changes: Any) -> AsyncIterator[Stage]:
        """A stage with four honest data owners, three honest evaluators and a relayer."""
        async with self.stage(folder, **changes) as made:
            for name in OWNERS:
                made.add_owner(name)
            for name in EVALUATORS:
                made.add_evaluator(name)
            made.add_relayer()
            yield made


def signer(name: str) -> KeySigner:
    """The account of an actor."""
    return KeySigner(keccak(f"account of {name}".encode()))


def sealing_key(name: str) -> SealingKey:
    """The sealing key of an actor."""
    return SealingKey(b"".join(keccak(f"sealing key {part} of {name}".encode()) for part in range(3)))


def clouds(rows: int, *, seed: int) -> Mapping[str, NDArray[Any]]:
    """Heights and widths in millimetres of two kinds of things."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, rows)
    kinds[:2] = 0, 1
    centres = np.where(kinds == 1, 11.5, 8.5)
    found: dict[str, NDArray[Any]] = {name: centres + rng.normal(0, 1.5, rows) for name in COLUMNS}
    found["kind"] = np.array(["round", "square"], dtype=object)[kinds]
    return found


def records_of(name: str, rows: int) -> Mapping[str, NDArray[Any]]:
    """What a data owner has: always the same for the same name."""
    return clouds(rows, seed=int.from_bytes(keccak(name.encode())[:4]))


def write_csv(path: Path, data: Mapping[str, NDArray[Any]], columns: Sequence[str]) -> None:
    """The data under these column names, in the order of ``COLUMNS``."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "kind"])
        for values in zip(*(data[name] for name in COLUMNS), data["kind"], strict=True):
            writer.writerow([*(repr(float(value)) for value in values[:-1]), values[-1]])


def compiled_job() -> CompiledJob:
    """A small network on two columns, priced so that the bounty is not spent to the end."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    windows = Windows(WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, WINDOW_S, 30 * 86_400)
    job = Job(
        title="Kinds of things",
        model=model,
        loss="cross_entropy",
        schema=SCHEMA,
        plan=PLAN,
        price=Price(bounty="1000", target_gain=0.8),
        test_data="",
        windows=windows,
        seed=1,
    )
    return compile_job(job, encode_rows(SCHEMA, clouds(160, seed=0)))


async def _found(folder: Path) -> Deployment:
    with EmbeddedChain(folder / "chain.sqlite", now=lambda: GENESIS_S) as chain:
        everybody = ("deployer", "requester", "relayer", *EVALUATORS)
        for name in everybody:
            await fund(chain, signer(name).address, 10**20)
        deployment = await deploy(chain, signer("deployer"), unbonding_s=86_400)
        ledger = await connect(chain, deployment)
        bare = Stage(folder, chain, ledger, MemoryBlobStore(), GENESIS_S)
        for name in ("requester", *EVALUATORS):
            await bare.site(name).submit(("mint", (signer(name).address, SUPPLY)), "token")
        for name in EVALUATORS:
            await evaluators.register(bare.site(name), sealing_key(name), STAKE)
    return deployment


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """Contracts, evaluators and a compiled job, once for all federations."""
    folder = tmp_path_factory.mktemp("town")
    deployment = anyio.run(_found, folder)
    keys = tuple(sealing_key(name).public for name in EVALUATORS)
    return Town(folder, deployment, keys, compiled_job())


@pytest.fixture(scope="session")
def undisturbed(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A federation in which everybody does what they should."""

    async def main() -> Outcome:
        async with town.full_stage(tmp_path_factory.mktemp("undisturbed")) as stage:
            await stage.play()
            return await stage.outcome()

    return anyio.run(main)


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
