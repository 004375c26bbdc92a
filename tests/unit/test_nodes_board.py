"""A board that anybody may fill: junk delays what is true, takes bounded memory, hides nothing for good."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import anyio
import numpy as np
import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import StorageError
from galaxylearning.messages.records import CohortList, encode
from galaxylearning.nodes import board as boards
from galaxylearning.nodes.board import MAX_REMEMBERED, Board
from galaxylearning.nodes.site import Pace
from galaxylearning.ports import MAX_LISTED
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.units import Digest

RECORD = CohortList(job_id=1, enrolments=(), direct=())
TRUE = blake3_digest(encode(RECORD))
Digests: TypeAlias = list[Digest]


class Flooded(MemoryBlobStore):
    """Lists what it is told to, in that order, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: Digests = []
        self.asked: Digests = []
        self.fails_at: Digest | None = None

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        self.asked.append(digest)
        if digest == self.fails_at:
            raise StorageError("broken")
        return await super().get(digest, max_bytes=max_bytes)

    async def junk(self, *numbers: int) -> Digests:
        """Blobs that are no records."""
        return [await self.put(f"junk {number}".encode(), topic="junk") for number in numbers]

    async def list(self, topic: str) -> Sequence[Digest]:
        return self.listed if topic.startswith("job/") else []


def invented(n: int, *, start: int = 0) -> Digests:
    """Digests of nothing."""
    return [Digest(number.to_bytes(32, "big")) for number in range(start, start + n)]


def board_on(blobs: MemoryBlobStore) -> Board:
    ledger = SimpleNamespace(chain_id=1, address_of=lambda _contract: "0x1")
    entropy = np.random.default_rng(0).bytes
    site: Any = SimpleNamespace(ledger=ledger, blobs=blobs, pace=Pace(), entropy=entropy)
    return Board(site, 1)


def play(scenario: Callable[[Flooded, Board], Coroutine[Any, Any, None]]) -> None:
    blobs = Flooded()
    anyio.run(scenario, blobs, board_on(blobs))


@pytest.fixture(autouse=True)
def few_at_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten new blobs at a look, and two again."""
    monkeypatch.setattr(boards, "MAX_FETCHED", 10)
    monkeypatch.setattr(boards, "MAX_RETRIED", 2)


def test_a_flood_of_junk_delays_a_record_and_does_not_hide_it() -> None:
    async def scenario(blobs: Flooded, board: Board) -> None:
        await blobs.put(encode(RECORD), topic="t")
        blobs.listed = [*await blobs.junk(*range(35)), TRUE]
        for n_asked in (10, 20, 30):
            await board.read("cohort", CohortList)
            assert len(blobs.asked) == n_asked
        for _ in range(2):
            assert await board.read("cohort", CohortList) == {TRUE: RECORD}
            # Each is looked at once.
            assert sorted(blobs.asked) == sorted(blobs.listed)

    play(scenario)


@pytest.mark.parametrize("place", [2, 40])
def test_a_store_that_lists_others_at_every_look_hides_nothing_for_good(place: int) -> None:
    async def scenario(blobs: Flooded, board: Board) -> None:
        await blobs.put(encode(RECORD), topic="t")
        honest = [*await blobs.junk(*range(place)), TRUE]
        for look in range(100):
            theirs = invented(50, start=50 * look)
            # Two stores are listed in turns.
            blobs.listed = [one for pair in zip(honest, theirs, strict=False) for one in pair]
            if await board.read("cohort", CohortList):
                break
        assert blobs.asked.count(TRUE) == 1
        # What comes early in an honest store is found at once, the rest by and by.
        assert look == 0 if place == 2 else look < 99

    play(scenario)


def test_what_cannot_be_had_stands_in_nobodys_way_and_is_asked_for_again_in_turns() -> None:
    async def scenario(blobs: Flooded, board: Board) -> None:
        blobs.listed = [*invented(5), TRUE]
        assert await board.read("cohort", CohortList) == {}
        assert blobs.asked == blobs.listed
        assert await board.read("cohort", CohortList) == {}
        assert blobs.asked == [*blobs.listed, *blobs.listed[:2]]
        await blobs.put(encode(RECORD), topic="t")
        for found in ({}, {TRUE: RECORD}):
            blobs.asked.clear()
            assert await board.read("cohort", CohortList) == found
            assert len(blobs.asked) == 2
        blobs.listed = []
        blobs.asked.clear()
        await board.read("cohort", CohortList)
        assert blobs.asked == []

    play(scenario)


def test_a_record_stays_whatever_is_listed_later() -> None:
    async def scenario(blobs: Flooded, board: Board) -> None:
        await blobs.put(encode(RECORD), topic="t")
        blobs.listed = [TRUE]
        await board.read("cohort", CohortList)
        blobs.listed = invented(5)
        assert await board.read("cohort", CohortList) == {TRUE: RECORD}

    play(scenario)


def test_junk_under_one_topic_may_be_a_record_under_another() -> None:
    async def scenario(blobs: Flooded, board: Board) -> None:
        await blobs.put(encode(RECORD), topic="t")
        blobs.listed = [TRUE]
        assert await board.read("enrolments", CohortList, max_bytes=1) == {}
        assert await board.read("cohort", CohortList) == {TRUE: RECORD}

    play(scenario)


def test_memory_of_junk_is_bounded_and_the_topic_read_last_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MAX_REMEMBERED > 10 * MAX_LISTED
    monkeypatch.setattr(boards, "MAX_REMEMBERED", 12)

    async def scenario(blobs: Flooded, board: Board) -> None:
        blobs.listed = await blobs.junk(*range(8))
        for topic in ("old", "older", "old", "new"):
            await board.read(topic, CohortList)
            assert sum(len(one.junk) for one in board._topics.values()) <= 12
        blobs.asked.clear()
        await board.read("new", CohortList)
        assert blobs.asked == []
        await board.read("old", CohortList)
        assert blobs.asked == blobs.listed

    play(scenario)


def test_a_look_that_failed_goes_on_where_it_did() -> None:
    async def scenario(blobs: Flooded, board: Board) -> None:
        blobs.listed = await blobs.junk(1, 2, 3, 4)
        blobs.fails_at = blobs.listed[-1]
        with pytest.raises(StorageError, match="broken"):
            await board.read("cohort", CohortList)
        blobs.fails_at = None
        await board.read("cohort", CohortList)
        assert blobs.asked == [*blobs.listed, blobs.listed[-1]]

    play(scenario)
