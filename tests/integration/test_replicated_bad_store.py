"""One bad store of several: what it lists, withholds or delays stops nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing
from galaxylearning.storage import replicated_blobs
from galaxylearning.storage.blob_names import AccessRefused, StoreLate, StoreUnreachable
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.replicated_blobs import CATCH_UP, REST_RATIO, REST_S
from galaxylearning.units import Digest
from replica_cast import DATA, DIGEST, Cast, run


@pytest.mark.parametrize("copies", [1, 2])
def test_a_store_that_hangs_has_a_short_grace_once_enough_others_answered(
    copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicated_blobs, "GRACE_S", 0.05)

    async def check() -> None:
        for told in ("put", "list", "restore"):
            cast = Cast(copies=copies)
            await cast.store.put(b"other", topic="t")
            cast.a.hangs = True
            if told == "put":
                assert await cast.store.put(DATA, topic="t") == DIGEST
                assert cast.store.missed == {"a": 1, "b": 0, "c": 0}
            elif told == "list":
                assert list(await cast.store.list("t")) == [blake3_digest(b"other")]
            else:
                await cast.store.restore(DATA)
            assert cast.told == [("a", "late", False)]
            cast.a.n_asked = 0
            await cast.store.list("t")
            assert cast.a.n_asked == 0

    run(check())


def test_there_is_no_grace_while_too_few_have_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicated_blobs, "GRACE_S", 0.0)

    async def check() -> None:
        cast = Cast(copies=2, patience_s=0.05)
        cast.a.hangs = cast.b.hangs = True
        with pytest.raises(
            StoreUnreachable, match=r"1 of 3 stores hold it, 2 must; a: no answer within 0.05"
        ):
            await cast.store.put(DATA, topic="t")

    run(check())


def test_what_a_large_blob_takes_at_the_slowest_rate_is_no_lateness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicated_blobs, "GRACE_S", 0.0)

    async def check() -> None:
        cast, others_are_done = Cast(), asyncio.Event()

        async def slow(data: bytes, *, topic: str) -> Digest:
            await others_are_done.wait()
            await asyncio.sleep(0)
            return await MemoryBlobStore.put(cast.a, data, topic=topic)

        async def last(data: bytes, *, topic: str) -> Digest:
            others_are_done.set()
            return await MemoryBlobStore.put(cast.c, data, topic=topic)

        monkeypatch.setattr(cast.a, "put", slow)
        monkeypatch.setattr(cast.c, "put", last)
        digest = await cast.store.put(bytes(1 << 20), topic="t")
        assert cast.a.digests() == cast.c.digests() == [digest]
        assert cast.faults == []

    run(check())


def test_a_rest_is_not_ended_by_answers_to_calls_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        cast, n_listed = Cast(), 0

        async def unreachable(topic: str) -> Sequence[Digest]:
            nonlocal n_listed
            n_listed += 1
            raise StoreUnreachable("not now")

        monkeypatch.setattr(cast.a, "list", unreachable)
        for second in range(3_600):
            cast.now_s = float(second)
            await cast.store.put(DATA, topic="t")
            await cast.store.list("t")
        # At 0, 30, 90, 210, 450, 930 s, then every 10 minutes, although every write to it succeeds.
        assert n_listed == 10

    run(check())


@pytest.mark.parametrize("kind", ["list", "get"])
def test_a_store_rests_for_many_times_as_long_as_it_was_waited_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        cast = Cast()
        await cast.store.put(DATA, topic="t")
        n_asked = 0

        async def late(*_: object, **__: object) -> Any:
            nonlocal n_asked
            n_asked += 1
            cast.now_s += 500
            raise StoreLate("too slow")

        async def call() -> None:
            if kind == "list":
                await cast.store.list("t")
            else:
                await cast.store.get(DIGEST, max_bytes=64)

        monkeypatch.setattr(cast.a, kind, late)
        await call()
        cast.now_s = 500 + 500 * REST_RATIO - 1
        await call()
        assert n_asked == 1
        cast.now_s += 1
        await call()
        assert n_asked == 2

    run(check())


def test_no_store_crowds_out_what_others_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicated_blobs, "MAX_LISTED", 5_000)

    async def check() -> None:
        cast = Cast()
        true = [await cast.store.put(bytes([i]), topic="t") for i in range(30)]
        invented = [Digest(bytes(28) + i.to_bytes(4, "big")) for i in range(5_000)]
        cast.b.invented = invented
        listed = list(await cast.store.list("t"))
        assert len(listed) == len(set(listed)) == 5_000
        for place, digest in enumerate(sorted(true), 1):
            assert listed.index(digest) < 3 * place
        # Who listed them is told, but not at every call, and each is looked for once.
        assert [(fault.store, fault.kind, fault.digest) for fault in cast.faults] == [
            ("b", "lost", invented[0])
        ]
        assert "given by no store" in cast.faults[0].detail
        while any(cast.store.missed.values()):
            cast.now_s += 1
            await cast.store.put(bytes([0]), topic="t")
        n_asked = cast.b.n_asked
        assert list(await cast.store.list("t")) == listed
        # It is given again what it does not list, each in two calls, and asked for nothing.
        assert cast.b.n_asked == n_asked + 1 + 2 * CATCH_UP
        assert cast.a.digests() == cast.c.digests() == sorted(true)
        assert {(fault.store, fault.kind) for fault in cast.faults} == {("b", "lost")}
        assert len(cast.faults) < cast.now_s / REST_S + 1

    run(check())


def test_no_entry_is_doubted_while_a_store_that_may_have_it_is_away() -> None:
    async def check() -> None:
        cast = Cast()
        digest = await cast.b.put(DATA, topic="t")
        cast.a.invented = [digest]
        cast.b.failing = StoreUnreachable("away")
        assert list(await cast.store.list("t")) == [digest]
        assert [fault.store for fault in cast.faults] == ["b"]
        cast.b.failing = None
        cast.now_s += REST_S
        await cast.store.list("t")
        assert cast.c.digests() == [digest]

    run(check())


def test_what_one_store_refuses_and_another_has_not_is_missing() -> None:
    async def check() -> None:
        cast = Cast()
        cast.b.failing = AccessRefused("not you")
        with pytest.raises(BlobMissing):
            await cast.store.get(DIGEST, max_bytes=64)
        cast.a.failing = cast.c.failing = AccessRefused("nor you")
        with pytest.raises(AccessRefused):
            await cast.store.get(DIGEST, max_bytes=64)

    run(check())
