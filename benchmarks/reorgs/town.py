"""A small job and who takes part in it: three evaluators, three data owners, a relayer, two rounds.

Everything is the real thing: contracts, sealing, training in a thread, scores, payouts, audit. What data
owners and evaluators choose at random follows from their names, so that two plays can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import msgspec
from benchmarks import things
from benchmarks.reorgs.anvil import Chain, Line
from benchmarks.reorgs.storm import CountingSigner, Shaken, Storm, WatchedBlobs

from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.evm import EvmLedger, Following, connect
from galaxylearning.crypto import seal
from galaxylearning.crypto.digest import keccak
from galaxylearning.nodes import evaluator as evaluators
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.site import Progress, Site
from galaxylearning.ports import Journal
from galaxylearning.protocol.consent import OwnerPolicy
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.simulation.stage import STAKE, SUPPLY, sealing_key, signer
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.units import Entropy

SEALED: Final = tuple(f"evaluator-{number}" for number in range(1, 4))
MASKED: Final = tuple(f"evaluator-{number}" for number in range(1, 6))
OWNERS: Final = ("north", "east", "south")
GAS_MONEY_WEI: Final = 10**20
WINDOW_S: Final = 1_000_000
JOB_ID: Final = 1
STAGGER_S: Final = 3.0


def compiled_job(*, is_masked: bool) -> CompiledJob:
    """A small network on two columns."""
    plan = msgspec.structs.replace(
        things.PLAN, minimum_owners=len(OWNERS) if is_masked else 2, maximum_owners=len(OWNERS)
    )
    privacy: dict[str, Any] = {"privacy": "masked", "masking": things.MASKING} if is_masked else {}
    return things.compiled_job(
        things.MASKED_HIDDEN if is_masked else things.HIDDEN,
        test_seed=things.seed_of("test"),
        plan=plan,
        windows=things.windows(WINDOW_S),
        **privacy,
    )


@contextmanager
def remembered_sealing() -> Iterator[None]:
    """While this lasts, the same content key for the same recipient is wrapped as it was the first time.

    HPKE draws its own randomness, so two plays would have other envelopes, and other roots of their digests.
    """
    wrap, known = seal._wrap, dict[tuple[bytes, bytes, bytes], bytes]()

    def remembered(content_key: bytes, public_key: bytes, info: bytes, *, where: str) -> bytes:
        key = content_key, public_key, info
        if key not in known:
            known[key] = wrap(content_key, public_key, info, where=where)
        return known[key]

    seal._wrap = remembered
    try:
        yield
    finally:
        seal._wrap = wrap


def entropy_of(name: str) -> Entropy:
    """Bytes that follow from a name, and from how often they were asked for."""
    asked = count()

    def entropy(n_bytes: int) -> bytes:
        found = b""
        while len(found) < n_bytes:
            found += keccak(f"{name} {next(asked)}".encode())
        return found[:n_bytes]

    return entropy


@dataclass
class TurnClock:
    """Time that moves from turn to turn, in seconds."""

    time_s: float = 0.0

    def monotonic_s(self) -> float:
        """Now."""
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        """Until that time has come."""
        from anyio import sleep

        end_s = self.time_s + seconds
        while self.time_s < end_s:
            await sleep(0.001)


async def found_town(url: str, seats: Sequence[str]) -> Deployment:
    """Contracts; everybody funded; evaluators registered and staked."""
    for name in ("deployer", "requester", "relayer", *seats):
        await fund(url, signer(name).address, GAS_MONEY_WEI)
    deployment = await deploy(url, signer("deployer"), unbonding_s=86_400)
    ledger = await connect(url, deployment)
    try:
        blobs, clock = MemoryBlobStore(), TurnClock()
        for name in ("requester", *seats):
            site = Site(ledger, blobs, clock, MemoryJournal(), signer(name), entropy_of(name))
            await site.submit(("mint", (signer(name).address, SUPPLY)), "token")
            if name in seats:
                await evaluators.register(site, sealing_key(name), STAKE)
    finally:
        await ledger.close()
    return deployment


@dataclass
class Cast:
    """Everybody who takes part in one play, each with a connection of their own."""

    chain: Chain
    deployment: Deployment
    following: Following
    seats: tuple[str, ...]
    storm: Storm
    stack: AsyncExitStack
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    clock: TurnClock = field(default_factory=TurnClock)
    journals: dict[str, Journal] = field(default_factory=dict)
    signers: dict[str, CountingSigner] = field(default_factory=dict)
    watched: dict[str, WatchedBlobs] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    nodes: dict[str, DataOwnerNode | EvaluatorNode | RelayerNode] = field(default_factory=dict)

    async def ledger(self) -> EvmLedger:
        """A connection that ends with the play."""
        line = Line(self.chain.url, self.chain.lock)
        self.stack.push_async_callback(line.disconnect)
        found = await connect(line, self.deployment, following=self.following, receipt_timeout_s=20.0)
        self.stack.push_async_callback(found.close)
        return found

    async def site(self, name: str) -> Site:
        """The ports of one of them."""
        counting = self.signers.setdefault(name, CountingSigner(signer(name)))
        watched = self.watched.setdefault(name, WatchedBlobs(self.blobs))
        return Site(
            ledger=Shaken(await self.ledger(), self.storm),
            blobs=watched,
            clock=self.clock,
            journal=self.journals.setdefault(name, MemoryJournal()),
            signer=counting,
            entropy=entropy_of(name),
            report=self.progress.append,
            poll_s=1.0,
        )

    async def enter(self, name: str) -> None:
        """Start a node, or start it again on its journal."""
        site = await self.site(name)
        if name in self.seats:
            self.nodes[name] = EvaluatorNode(site, sealing_key(name), jobs=[JOB_ID], stagger_s=STAGGER_S)
        elif name == "relayer":
            self.nodes[name] = RelayerNode(site, jobs=[JOB_ID])
        else:
            policy = OwnerPolicy(requesters=(signer("requester").address,), datasets=("things",))
            self.nodes[name] = DataOwnerNode(
                site,
                sealing_key(name),
                shelf=things.MemoryShelf(name, things.SCHEMA, things.clouds(48, seed=things.seed_of(name))),
                trainer=ThreadTrainer(),
                policy=lambda: policy,
                jobs=frozenset([JOB_ID]),
            )
