"""Each kind of fault at the ports: what has its effect, what the caller hears, and that it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from galaxylearning.errors import (
    BlobDamaged,
    BlobMissing,
    DiskFull,
    LedgerUnreachable,
    StorageError,
    TransactionReverted,
)
from galaxylearning.ports import Call, Contract
from galaxylearning.simulation.faults import LATE_S, TIMEOUT_S, Fault, FaultSource, NodeDied, Weather, chance
from galaxylearning.simulation.faulty_ports import (
    TORN_S,
    FaultyBlobs,
    FaultyClock,
    FaultyJournal,
    FaultyLedger,
    StoreRoom,
    Wire,
)
from galaxylearning.simulation.light_ledger import LightLedger
from galaxylearning.simulation.stage import signer
from galaxylearning.simulation.virtual_time import VirtualLoop
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.journal import MemoryJournal
from galaxylearning.units import Address

T = TypeVar("T")

ADDRESSES: dict[Contract, Address] = {
    "jobs": signer("jobs").address,
    "registry": signer("registry").address,
    "token": signer("token").address,
}
ALICE = signer("alice")
MINT = Call("token", "mint", (ALICE.address, 5))
REGISTER = Call("registry", "registerEvaluator", (bytes(range(32)),))


class Given(FaultSource):
    """Faults in the given order, one at each opportunity that allows it; then none."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(Weather({}, float("inf")), chance("given"))
        self.given = list(faults)

    def draw(self, node: str, doing: str, kinds: tuple[Fault, ...]) -> Fault | None:
        if not self.given or self.given[0] not in kinds:
            return None
        self.note(node, doing, self.given[0])
        return self.given.pop(0)


class World:
    """A ledger and a store behind faulty ports."""

    def __init__(self, *faults: Fault) -> None:
        self.source = Given(*faults)
        self.loop = VirtualLoop.seeded("order")
        self.light = LightLedger(ADDRESSES, now=self.now)
        self.store = MemoryBlobStore()
        wire = Wire(self.source, "alice")
        self.ledger = FaultyLedger(self.light, wire, chain_now=self.now)
        self.blobs = FaultyBlobs(StoreRoom(self.store, self.source), wire)

    def now(self) -> int:
        return 1_000 + int(self.loop.time())

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        async def inner() -> T:
            return await main()

        return self.loop.run(inner())

    @property
    def minted(self) -> int:
        return self.light.token.balances.get(ALICE.address, 0)


def test_a_lost_request_has_no_effect_and_a_lost_reply_has_one() -> None:
    for fault, effect in ((Fault.LOST_REQUEST, 0), (Fault.LOST_REPLY, 5)):
        world = World(fault)

        async def main(world: World = world) -> float:
            with pytest.raises(LedgerUnreachable):
                await world.ledger.submit(MINT, ALICE)
            return asyncio.get_running_loop().time()

        assert world.run(main) >= TIMEOUT_S
        assert world.minted == effect
        assert world.source.counts == {fault: 1}


def test_a_refusal_is_heard_unless_its_reply_is_lost() -> None:
    bad = Call("registry", "registerEvaluator", (bytes(32),))
    world = World()

    async def heard() -> None:
        with pytest.raises(TransactionReverted, match="ZeroDigest"):
            await world.ledger.submit(bad, ALICE)

    world.run(heard)
    other = World(Fault.LOST_REPLY)

    async def unheard() -> None:
        with pytest.raises(LedgerUnreachable):
            await other.ledger.submit(bad, ALICE)

    other.run(unheard)


def test_a_duplicate_arrives_again_later_but_a_payment_does_not() -> None:
    for call, times in ((REGISTER, 2), (MINT, 1)):
        world = World(Fault.DUPLICATE)

        async def main(world: World = world, call: Call = call) -> None:
            await world.ledger.submit(call, ALICE)
            await asyncio.sleep(LATE_S[1] + 1)

        world.run(main)
        blocks = [event.block.number for event in world.light.log]
        assert (blocks == [1, 2]) if times == 2 else world.minted == 5


def test_a_reordered_request_comes_after_a_later_one() -> None:
    world = World(Fault.REORDERED)

    async def main() -> None:
        with pytest.raises(LedgerUnreachable):
            await world.ledger.submit(REGISTER, ALICE)
        await world.ledger.submit(Call("registry", "registerEvaluator", (bytes([7] * 32),)), ALICE)
        await asyncio.sleep(LATE_S[1])

    world.run(main)
    assert [event.arguments["sealingKeyDigest"][0] for event in world.light.log] == [7, 0]


def test_stale_events_and_time_are_those_of_a_while_ago() -> None:
    world = World(Fault.STALE, Fault.STALE)

    async def main() -> tuple[int, int, int]:
        await asyncio.sleep(100.0)
        await world.ledger.submit(REGISTER, ALICE)
        stale = len((await world.ledger.follow(0)).final)
        late = world.now() - await world.ledger.now()
        return stale, late, len((await world.ledger.follow(0)).final)

    stale, late, fresh = world.run(main)
    assert (stale, fresh) == (0, 1)
    assert late >= 4


def test_a_crash_ends_the_node_and_what_it_sent_may_still_arrive() -> None:
    outcomes = set()
    for number in range(12):
        world = World(Fault.CRASH)
        world.source.rng = chance(f"crash {number}")

        async def main(world: World = world) -> None:
            with pytest.raises(NodeDied):
                await world.ledger.submit(MINT, ALICE)
            at_once = world.minted
            await asyncio.sleep(LATE_S[1] + 1)
            outcomes.add((at_once, world.minted))

        world.run(main)
    assert outcomes == {(0, 0), (0, 5), (5, 5)}


def test_a_torn_blob_is_damaged_until_it_is_whole() -> None:
    world = World(Fault.TORN_WRITE)

    async def main() -> bytes:
        digest = await world.blobs.put(b"a blob", topic="a/b/c/1/things")
        with pytest.raises(BlobDamaged):
            await world.blobs.get(digest, max_bytes=10)
        await asyncio.sleep(TORN_S[1])
        return await world.blobs.get(digest, max_bytes=10)

    assert world.run(main) == b"a blob"


def test_a_missing_blob_and_a_store_that_does_not_answer_may_be_asked_again() -> None:
    world = World(Fault.MISSING, Fault.LOST_REQUEST)

    async def main() -> bytes:
        digest = await world.store.put(b"a blob", topic="t")
        with pytest.raises(BlobMissing):
            await world.blobs.get(digest, max_bytes=10)
        with pytest.raises(StorageError) as failed:
            await world.blobs.get(digest, max_bytes=10)
        assert failed.value.retryable
        return await world.blobs.get(digest, max_bytes=10)

    assert world.run(main) == b"a blob"


def test_a_stale_list_is_that_of_a_while_ago_and_a_torn_one_lacks_entries() -> None:
    world = World(Fault.STALE, Fault.MISSING)

    async def main() -> tuple[int, int, int]:
        for number in range(20):
            await world.blobs.put(bytes([number]), topic="t")
        return (
            len(await world.blobs.list("t")),
            len(await world.blobs.list("t")),
            len(await world.blobs.list("t")),
        )

    stale, partial, whole = world.run(main)
    assert stale < whole == 20
    assert 0 < partial < 20


def test_a_full_disk_stays_full_for_a_while_and_says_so() -> None:
    source = Given(Fault.FULL_DISK)
    journal = FaultyJournal(MemoryJournal(), source, "alice")

    async def main() -> bytes:
        with pytest.raises(DiskFull):
            journal.record("step", b"1")
        with pytest.raises(DiskFull):
            journal.record("other", b"1")
        await asyncio.sleep(1_000.0)
        return journal.record("other", b"2")

    assert VirtualLoop.seeded("order").run(main()) == b"2"
    assert source.counts[Fault.FULL_DISK] == 2


def test_a_record_that_a_death_cut_off_is_not_there_and_one_before_it_is() -> None:
    kept = MemoryJournal()
    journal = FaultyJournal(kept, Given(Fault.TORN_WRITE, Fault.CRASH), "alice")

    async def main() -> None:
        with pytest.raises(NodeDied):
            journal.record("torn", b"1")
        with pytest.raises(NodeDied):
            journal.record("whole", b"1")

    VirtualLoop.seeded("order").run(main())
    assert kept.steps() == ["whole"]


def test_a_clock_jumps_while_its_node_pauses() -> None:
    async def main() -> float:
        clock = FaultyClock(Given(Fault.CLOCK_JUMP), "alice")
        await clock.sleep(10.0)
        return clock.monotonic_s() - asyncio.get_running_loop().time()

    assert VirtualLoop.seeded("order").run(main()) >= 1.0


def test_faults_are_drawn_at_their_rates_and_stop_when_it_is_time() -> None:
    source = FaultSource(Weather({Fault.SLOW: 0.2, Fault.STALE: 0.1}, until_s=50.0), chance("rates"))
    kinds = (Fault.SLOW, Fault.STALE, Fault.CRASH)

    async def main() -> Any:
        for _ in range(10_000):
            source.draw("alice", "this", kinds)
        before = dict(source.counts)
        await asyncio.sleep(50.0)
        assert source.draw("alice", "this", kinds) is None
        return before

    counts = VirtualLoop.seeded("order").run(main())
    assert set(counts) == {Fault.SLOW, Fault.STALE}
    assert 1_800 < counts[Fault.SLOW] < 2_200
    assert 880 < counts[Fault.STALE] < 1_120
