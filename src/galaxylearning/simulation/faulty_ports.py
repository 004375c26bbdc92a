"""The ports of one node on a bad day: a ledger, a store, a journal and a clock that faults happen to.

Each wraps what really keeps the state. A request takes a while on its way, has its effect there, and the
answer takes a while back; a node that dies meanwhile does not call it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobDamaged, BlobMissing, DiskFull, GalaxyError, LedgerUnreachable
from galaxylearning.ports import (
    BlobStore,
    Block,
    Call,
    ChainLog,
    Contract,
    Journal,
    Ledger,
    Receipt,
    Signer,
)
from galaxylearning.simulation.faults import LATE_S, LEG_S, TIMEOUT_S, Fault, FaultSource, NodeDied
from galaxylearning.simulation.virtual_time import WaywardClock
from galaxylearning.storage.blob_names import StoreUnreachable
from galaxylearning.units import Address, Digest

WRITING: Final = (
    Fault.LOST_REQUEST,
    Fault.LOST_REPLY,
    Fault.DUPLICATE,
    Fault.REORDERED,
    Fault.SLOW,
    Fault.CRASH,
)
FINAL: Final = (Fault.LOST_REQUEST, Fault.SLOW, Fault.CRASH)
"""What can happen to a reading of what never changes."""
PAYING: Final = ("approve", "postJob", "depositStake", "mint")
READING: Final = (Fault.LOST_REQUEST, Fault.SLOW, Fault.STALE, Fault.CRASH)
LAG_S: Final = (5.0, 60.0)
"""How far behind what is read may be."""
SLOW_S: Final = (1.0, TIMEOUT_S)
TORN_S: Final = (5.0, 90.0)
MOST_LISTED: Final = 2_000
"""Of how many listings it is kept when they were made; older ones everybody sees by then."""
FULL_S: Final = (5.0, 90.0)
JUMP_S: Final = (1.0, 300.0)

_T = TypeVar("_T")


_Effect: TypeAlias = Callable[[Fault | None], Awaitable[_T]]
"""What a request does where it arrives, told of the fault that happens to it."""


class Wire:
    """What one node sends and hears, with the faults on the way."""

    def __init__(self, source: FaultSource, node: str) -> None:
        self.source, self.node = source, node
        self._detached: set[asyncio.Task[None]] = set()

    async def write(
        self,
        doing: str,
        effect: _Effect[_T],
        lost: Callable[[], GalaxyError],
        kinds: tuple[Fault, ...] = WRITING,
    ) -> _T:
        """Ask for something to be done; what comes back is its answer, or that there was none."""
        source = self.source
        fault = source.draw(self.node, doing, kinds)
        await asyncio.sleep(source.between(LEG_S))
        match fault:
            case Fault.LOST_REQUEST:
                await asyncio.sleep(TIMEOUT_S)
                raise lost()
            case Fault.REORDERED:
                self._later(effect)
                await asyncio.sleep(TIMEOUT_S)
                raise lost()
            case Fault.CRASH:
                if source.coin():
                    self._later(effect)
                elif source.coin():
                    with suppress(GalaxyError):
                        await effect(fault)
                raise NodeDied(doing)
            case Fault.SLOW if source.coin():
                await asyncio.sleep(source.between(SLOW_S))
            case _:
                pass
        if fault is Fault.LOST_REPLY:
            with suppress(GalaxyError):
                await effect(fault)
            await asyncio.sleep(TIMEOUT_S)
            raise lost()
        if fault is Fault.DUPLICATE:
            self._later(effect)
        found = await effect(fault)
        late_s = source.between(SLOW_S) if fault is Fault.SLOW else 0.0
        await asyncio.sleep(source.between(LEG_S) + late_s)
        return found

    async def read(
        self,
        doing: str,
        effect: _Effect[_T],
        lost: Callable[[], GalaxyError],
        kinds: tuple[Fault, ...] = READING,
    ) -> _T:
        """Ask for something to be read."""
        source = self.source
        fault = source.draw(self.node, doing, kinds)
        legs_s = 2 * source.between(LEG_S)
        if fault is Fault.LOST_REQUEST:
            await asyncio.sleep(TIMEOUT_S)
            raise lost()
        if fault is Fault.SLOW and source.coin():
            # The answer is made at once and is old when it comes.
            found = await effect(fault)
            await asyncio.sleep(source.between(SLOW_S))
            return found
        await asyncio.sleep(legs_s + source.between(SLOW_S) if fault is Fault.SLOW else legs_s)
        if fault is Fault.CRASH:
            raise NodeDied(doing)
        return await effect(fault)

    def lag_s(self, fault: Fault | None) -> float:
        """How old what is read is."""
        return self.source.between(LAG_S) if fault is Fault.STALE else 0.0

    def _later(self, effect: _Effect[Any]) -> None:
        """Let a request arrive later, whoever may have died since."""

        async def arrive() -> None:
            await asyncio.sleep(self.source.between(LATE_S))
            with suppress(GalaxyError):
                await effect(None)

        task = asyncio.get_running_loop().create_task(arrive())
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)


class FaultyLedger:
    """A node's way to the chain (``ports.Ledger``)."""

    def __init__(self, ledger: Ledger, wire: Wire, *, chain_now: Callable[[], int]) -> None:
        self._ledger, self._wire, self._chain_now = ledger, wire, chain_now

    @property
    def chain_id(self) -> int:
        """The chain's identifier."""
        return self._ledger.chain_id

    def address_of(self, contract: Contract) -> Address:
        """Where a contract is."""
        return self._ledger.address_of(contract)

    def _lost(self) -> GalaxyError:
        return LedgerUnreachable(f"no answer within {TIMEOUT_S:g} s", where="simulated chain")

    async def now(self) -> int:
        """Chain time, perhaps of a while ago."""

        async def look(fault: Fault | None) -> int:
            return await self._ledger.now() - int(self._wire.lag_s(fault))

        return await self._wire.read("read the time", look, self._lost)

    async def randomness(self, block: Block) -> bytes:
        """A block's randomness."""

        async def look(_fault: Fault | None) -> bytes:
            return await self._ledger.randomness(block)

        return await self._wire.read("read randomness", look, self._lost, FINAL)

    async def read(self, call: Call) -> Any:
        """A view."""

        async def look(_fault: Fault | None) -> Any:
            return await self._ledger.read(call)

        return await self._wire.read(f"read {call.function}", look, self._lost, FINAL)

    async def submit(self, call: Call, signer: Signer) -> Receipt:
        """Send a transaction; sent twice, it is two with the same content, as after a restart.

        Two of those that move somebody's own tokens would be two payments: there the nonce is the remedy.
        """

        async def send(_fault: Fault | None) -> Receipt:
            return await self._ledger.submit(call, signer)

        kinds = tuple(kind for kind in WRITING if kind is not Fault.DUPLICATE or call.function not in PAYING)
        return await self._wire.write(f"submit {call.function}", send, self._lost, kinds)

    async def coins_wei(self, account: Address) -> int:
        """As the ledger behind it."""
        return await self._ledger.coins_wei(account)

    @property
    def is_irrevocable(self) -> bool:
        """As the ledger behind it."""
        return self._ledger.is_irrevocable

    async def finality_s(self) -> int:
        """As the ledger behind it."""
        return await self._ledger.finality_s()

    async def follow(self, since_block: int) -> ChainLog:
        """Logs, perhaps without the latest blocks."""

        async def look(fault: Fault | None) -> ChainLog:
            found = await self._ledger.follow(since_block)
            if fault is not Fault.STALE:
                return found
            horizon = self._chain_now() - self._wire.lag_s(fault)
            late = [event.block.number for event in found.final if event.timestamp > horizon]
            if not late:
                return found
            head = Block(late[0] - 1, b"")
            final = [event for event in found.final if event.block.number < late[0]]
            return ChainLog(final=final, provisional=(), final_block=head, head=head)

        return await self._wire.read("follow", look, self._lost)

    async def has_block(self, block: Block) -> bool:
        """Whether a block is there."""

        async def look(_fault: Fault | None) -> bool:
            return await self._ledger.has_block(block)

        return await self._wire.read("look for a block", look, self._lost, FINAL)


class StoreRoom:
    """The store that all nodes share: what is there since when, and which blobs are torn until when."""

    def __init__(self, blobs: BlobStore, source: FaultSource) -> None:
        self.blobs, self.source = blobs, source
        self._listed_at: dict[tuple[str, Digest], float] = {}
        self._torn_until: dict[Digest, float] = {}

    async def put(self, data: bytes, topic: str, torn_s: float) -> Digest:
        """Store and list a blob; its first readers may find it torn."""
        now_s = self.source.now_s()
        digest = await self.blobs.put(data, topic=topic)
        self._listed_at.setdefault((topic, digest), now_s)
        if len(self._listed_at) > MOST_LISTED:
            self._forget(now_s)
        if torn_s and digest not in self._torn_until:
            self._torn_until[digest] = now_s + torn_s
        return digest

    def _forget(self, now_s: float) -> None:
        """Drop what no lag and no tearing reaches any more."""
        horizon = now_s - LAG_S[1]
        self._listed_at = {key: at_s for key, at_s in self._listed_at.items() if at_s > horizon}
        self._torn_until = {key: until_s for key, until_s in self._torn_until.items() if until_s > now_s}

    async def get(self, digest: Digest, max_bytes: int, is_torn: bool) -> bytes:
        """A blob; a torn one is found out by its digest, as every store does."""
        data = await self.blobs.get(digest, max_bytes=max_bytes)
        if is_torn or self._torn_until.get(digest, 0.0) > self.source.now_s():
            data = data[: len(data) // 2]
        if blake3_digest(data) != digest:
            raise BlobDamaged("is not what its digest says", where=f"blob {digest.hex()}")
        return data

    async def list(self, topic: str, lag_s: float) -> list[Digest]:
        """A topic as it was some seconds ago."""
        found = await self.blobs.list(topic)
        if not lag_s:
            return list(found)
        horizon = self.source.now_s() - lag_s
        return [digest for digest in found if self._listed_at.get((topic, digest), 0.0) <= horizon]


class FaultyBlobs:
    """A node's way to the store (``ports.BlobStore``)."""

    def __init__(self, room: StoreRoom, wire: Wire) -> None:
        self._room, self._wire = room, wire

    def _lost(self) -> GalaxyError:
        return StoreUnreachable(f"no answer within {TIMEOUT_S:g} s", where="simulated store")

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store a blob."""

        async def store(fault: Fault | None) -> Digest:
            torn_s = self._wire.source.between(TORN_S) if fault is Fault.TORN_WRITE else 0.0
            return await self._room.put(data, topic, torn_s)

        kinds = (*WRITING, Fault.TORN_WRITE)
        return await self._wire.write(f"put {_short(topic)}", store, self._lost, kinds)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """Fetch a blob."""

        async def look(fault: Fault | None) -> bytes:
            if fault is Fault.MISSING:
                raise BlobMissing("is not in this store yet", where=f"blob {digest.hex()}")
            return await self._room.get(digest, max_bytes, fault is Fault.TORN_WRITE)

        kinds = (*FINAL, Fault.MISSING, Fault.TORN_WRITE)
        return await self._wire.read(f"get {digest.hex()[:8]}", look, self._lost, kinds)

    async def list(self, topic: str) -> Sequence[Digest]:
        """What lies under a topic, perhaps without some of it."""

        async def look(fault: Fault | None) -> Sequence[Digest]:
            found = await self._room.list(topic, self._wire.lag_s(fault))
            is_whole = fault is not Fault.MISSING
            return [digest for digest in found if is_whole or self._wire.source.coin()]

        kinds = (*READING, Fault.MISSING)
        return await self._wire.read(f"list {_short(topic)}", look, self._lost, kinds)


def _short(topic: str) -> str:
    """A topic without the chain and the contract in front of it."""
    return topic.split("/", 3)[-1]


class FaultyJournal:
    """A node's journal on a disk that fills up, and that the node's death may cut off."""

    def __init__(self, journal: Journal, source: FaultSource, node: str) -> None:
        self._journal, self._source, self._node = journal, source, node
        self._full_until_s = 0.0

    def record(self, step: str, payload: bytes) -> bytes:
        """Write once."""
        source = self._source
        doing = f"record {step}"
        if not source.is_calm and source.now_s() < self._full_until_s:
            source.note(self._node, doing, Fault.FULL_DISK)
            raise DiskFull("the disk is full", where="simulated journal")
        fault = source.draw(self._node, doing, (Fault.FULL_DISK, Fault.TORN_WRITE, Fault.CRASH))
        if fault is Fault.FULL_DISK:
            self._full_until_s = source.now_s() + source.between(FULL_S)
            if source.coin():
                self._journal.record(step, payload)
            raise DiskFull("the disk is full", where="simulated journal")
        if fault is Fault.TORN_WRITE:
            raise NodeDied(doing)
        kept = self._journal.record(step, payload)
        if fault is Fault.CRASH:
            raise NodeDied(doing)
        return kept

    def lookup(self, step: str) -> bytes | None:
        """What is recorded."""
        return self._journal.lookup(step)

    def steps(self, prefix: str = "") -> Sequence[str]:
        """Which steps are recorded."""
        return self._journal.steps(prefix)


class FaultyClock(WaywardClock):
    """A node's clock, which now and then jumps ahead while the node pauses."""

    def __init__(self, source: FaultSource, node: str) -> None:
        super().__init__()
        self._source, self._node = source, node

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        if self._source.draw(self._node, "sleep", (Fault.CLOCK_JUMP,)):
            self.jump(self._source.between(JUMP_S))
        await super().sleep(seconds)
