"""Whole federations in virtual time: real nodes, chain, sealing and training, driven turn by turn.

A ``Stage`` is one chain, one store and a cast of nodes that meet only there. ``play`` gives every node its
turn and then lets some seconds of chain time pass, so deadlines come without waiting, and the same script
always gives the same job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import anyio

from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import connect
from galaxylearning.chain.signer import KeySigner
from galaxylearning.chain.transport import Transport, as_int
from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.errors import GalaxyError, QuorumMissing
from galaxylearning.messages.records import MAX_TABLE_BYTES, ScoreTable, decode
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes import requester
from galaxylearning.nodes.auditor import Auditor, AuditReport
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.seating import LEAST_WINDOW_S, Seating
from galaxylearning.nodes.site import Progress, Site, is_passing
from galaxylearning.ports import BlobStore, Call, Journal, Ledger
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.machine import JobState
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.units import Address, Entropy

GENESIS_S: Final = 1_800_000_000
STEP_S: Final = 20
STAKE: Final = 50 * 10**18
SUPPLY: Final = 10**24
GAS_MONEY_WEI: Final = 10**20
EVALUATORS: Final = ("evaluator-1", "evaluator-2", "evaluator-3")


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

    async def sleep(self, _seconds: float) -> None:
        """Time stands still during a turn, which ``play`` calls: sleep until cancelled."""
        await anyio.sleep_forever()


@dataclass
class Stage:
    """One chain, one store, one job, and who takes part in it."""

    folder: Path
    chain: EmbeddedChain
    ledger: Ledger
    blobs: BlobStore
    time_s: int
    entropy: Entropy
    nodes: dict[str, Node] = field(default_factory=dict)
    makers: dict[str, Callable[[], Node]] = field(default_factory=dict)
    journals: dict[str, Journal] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    job_id: int = 0
    evaluators: tuple[str, ...] = EVALUATORS
    killed: type[BaseException] | None = None
    """What an actor dies of; it is made again on its journal."""
    deaths: int = 0

    # ---- who takes part

    def site(self, name: str, **changes: Any) -> Site:
        """The ports of one actor."""
        found = Site(
            ledger=self.ledger,
            blobs=self.blobs,
            clock=StageClock(self),
            journal=self.journals.setdefault(name, MemoryJournal()),
            signer=signer(name),
            entropy=self.entropy,
            report=self.progress.append,
            poll_s=1.0,
        )
        return replace(found, **changes)

    def cast(self, name: str, make: Callable[[], Node]) -> None:
        """Let a node take part; ``make`` makes it again after its death."""
        self.makers[name] = make
        self.nodes[name] = make()

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
            return kind(
                here, sealing_key(name), jobs=[self.job_id], stagger_s=STEP_S, seating=Seating(LEAST_WINDOW_S)
            )

        self.cast(name, make)

    def add_relayer(self, *, site: Callable[[], Site] | None = None) -> None:
        """Somebody who pays the gas."""

        def make() -> Node:
            return RelayerNode(self.site("relayer") if site is None else site(), jobs=[self.job_id])

        self.cast("relayer", make)

    # ---- the play

    async def post(self, compiled: CompiledJob) -> None:
        """The requester posts the job, and is not seen again."""
        posted = await requester.post(
            self.site("requester"),
            compiled,
            evaluators=[signer(name).address for name in self.evaluators],
            sealing_key=sealing_key("requester"),
        )
        self.job_id = posted.job_id

    async def play(
        self,
        *,
        until: Callable[[JobState], bool] | None = None,
        between: Callable[[], Awaitable[None]] | None = None,
        is_on: Callable[[str, JobState], bool] | None = None,
        most: int = 400,
    ) -> JobState:
        """Turn after turn until all are done, or ``until`` holds; ``between`` is awaited after every turn.

        ``is_on`` says whether an actor is there at all at this moment.

        Raises:
            QuorumMissing: not done after ``most`` turns.
        """
        state = await self.state()
        for _ in range(most):
            done = [
                await self._turn(name) if is_on is None or is_on(name, state) else False
                for name in list(self.nodes)
            ]
            if between is not None:
                await between()
            state = await self.state()
            if until(state) if until is not None else all(done):
                return state
            self.time_s += STEP_S
        raise QuorumMissing(f"not done after {most} turns; the job is {state.phase.name.lower()}")

    async def _turn(self, name: str) -> bool:
        try:
            return await self.nodes[name].turn()
        except GalaxyError as error:
            if not is_passing(error):
                raise
        except BaseException as death:
            if self.killed is None or not isinstance(death, self.killed):
                raise
            self.deaths += 1
            self.nodes[name] = self.makers[name]()
        return False

    # ---- what can be seen

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

    async def audit(self, key: SealingKey | None = None) -> AuditReport:
        """An auditor's report."""
        return await Auditor(self.site("auditor"), self.job_id, key=key).run()

    async def balance(self, account: Address) -> int:
        """Tokens of an account."""
        return int(await self.ledger.read(Call("token", "balanceOf", (account,))))

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
            for name in self.evaluators
            if signer(name).address in revealed
        }


def signer(name: str) -> KeySigner:
    """The account of an actor: a made-up key that anybody can derive, for chains nobody else is on."""
    return KeySigner(keccak(f"account of {name}".encode()))


def sealing_key(name: str) -> SealingKey:
    """The sealing key of an actor, made up likewise."""
    return SealingKey(b"".join(keccak(f"sealing key {part} of {name}".encode()) for part in range(3)))


async def found_town(
    chain: EmbeddedChain, folder: Path, *, entropy: Entropy, seats: tuple[str, ...] = EVALUATORS
) -> Deployment:
    """Deploy the contracts on a new chain; fund, register and stake the requester and the evaluators."""
    for name in ("deployer", "requester", "relayer", *seats):
        await fund(chain, signer(name).address, GAS_MONEY_WEI)
    deployment = await deploy(chain, signer("deployer"), unbonding_s=86_400)
    ledger = await connect(chain, deployment)
    bare = Stage(folder, chain, ledger, MemoryBlobStore(), GENESIS_S, entropy)
    for name in ("requester", *seats):
        await bare.site(name).submit(("mint", (signer(name).address, SUPPLY)), "token")
    for name in seats:
        await evaluators.register(bare.site(name), sealing_key(name), STAKE)
    return deployment


async def publish_keys(blobs: BlobStore, seats: tuple[str, ...] = EVALUATORS) -> None:
    """Put the evaluators' public sealing keys where everybody finds them."""
    for name in seats:
        await blobs.put(sealing_key(name).public, topic="keys")
