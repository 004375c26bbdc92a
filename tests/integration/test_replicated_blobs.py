"""Several stores as one: writes that need enough of them, reads from any that has it, reports and repairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxylearning import stores
from galaxylearning.config import BlobAccess, Home, Settings, settings_from_json, settings_to_json
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, ConfigRefused, StorageError
from galaxylearning.storage.blob_names import StoreFull, StoreUnreachable
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.replicated_blobs import MAX_REST_S, REST_S, BlobFault, ReplicatedBlobStore
from replica_cast import DATA, DIGEST, Cast, run


def test_a_blob_is_in_every_store_and_read_from_the_first() -> None:
    async def check() -> None:
        cast = Cast(copies=3)
        assert await cast.store.put(DATA, topic="t") == DIGEST
        for one in (cast.a, cast.b, cast.c):
            assert one.digests() == [DIGEST]
            one.n_asked = 0
        assert await cast.store.get(DIGEST, max_bytes=64) == DATA
        assert (cast.a.n_asked, cast.b.n_asked, cast.c.n_asked) == (1, 0, 0)
        assert cast.faults == []

    run(check())


@pytest.mark.parametrize(
    ("left", "kind"),
    [
        (None, "lost"),
        (DATA[:-1], "truncated"),
        (b"", "truncated"),
        (bytes([1, *DATA[1:]]), "flipped"),
        (b"another blob", "swapped"),
        (bytes(255 - byte for byte in DATA), "swapped"),
        (DATA + b"x", "swapped"),
    ],
)
def test_damage_is_named_and_put_right(left: bytes | None, kind: str) -> None:
    async def check() -> None:
        cast = Cast()
        await cast.store.put(DATA, topic="t")
        cast.a.damage(DIGEST, left)
        assert await cast.store.get(DIGEST, max_bytes=64) == DATA
        assert cast.told == [("a", kind, True)]
        assert await cast.a.get(DIGEST, max_bytes=64) == DATA

    run(check())


def test_a_store_that_does_not_check_is_checked() -> None:
    async def check() -> None:
        cast = Cast()
        await cast.store.put(DATA, topic="t")
        cast.a.lies = b"believe me"
        cast.b.lies = bytes(1_000)
        assert await cast.store.get(DIGEST, max_bytes=64) == DATA
        assert cast.told == [("a", "swapped", True), ("b", "swapped", True)]

    run(check())


def test_what_is_wrong_everywhere_is_told_and_never_given() -> None:
    async def check() -> None:
        cast = Cast()
        await cast.store.put(DATA, topic="t")
        for one in (cast.a, cast.b, cast.c):
            one.damage(DIGEST, b"wrong")
        with pytest.raises(BlobRefused, match="not what its digest says"):
            await cast.store.get(DIGEST, max_bytes=64)
        assert [fault.is_repaired for fault in cast.faults] == [False] * 3
        cast.b.failing = StoreUnreachable("away")
        with pytest.raises(StoreUnreachable, match="away"):
            await cast.store.get(DIGEST, max_bytes=64)

    run(check())


def test_what_nobody_has_is_missing_and_nobodys_fault() -> None:
    async def check() -> None:
        cast = Cast()
        with pytest.raises(BlobMissing, match="none of the stores"):
            await cast.store.get(DIGEST, max_bytes=64)
        assert cast.faults == []
        assert list(await cast.store.list("t")) == []
        await cast.store.put(DATA, topic="t")
        with pytest.raises(BlobRefused, match="larger than the 63"):
            await cast.store.get(DIGEST, max_bytes=63)

    run(check())


def test_a_late_store_is_named_once_left_alone_and_asked_again_after_a_rest() -> None:
    async def check() -> None:
        cast = Cast(patience_s=0.05)
        await cast.store.put(DATA, topic="t")
        cast.a.hangs = True
        cast.a.n_asked = 0
        for _ in range(3):
            assert await cast.store.get(DIGEST, max_bytes=64) == DATA
            assert list(await cast.store.list("t")) == [DIGEST]
        assert cast.told == [("a", "late", False)]
        assert cast.a.n_asked == 1
        cast.a.hangs = False
        cast.now_s += REST_S
        assert await cast.store.get(DIGEST, max_bytes=64) == DATA
        assert cast.a.n_asked == 2

    run(check())


def test_a_store_that_stays_away_is_asked_less_and_less_often() -> None:
    async def check() -> None:
        cast = Cast()
        await cast.store.put(DATA, topic="t")
        cast.a.failing = StoreUnreachable("away")
        cast.a.n_asked = 0
        for second in range(3_600):
            cast.now_s = float(second)
            await cast.store.get(DIGEST, max_bytes=64)
        # At 0, 30, 90, 210, 450, 930 s, then every 10 minutes.
        assert cast.a.n_asked == 10
        cast.a.failing = None
        cast.now_s += MAX_REST_S
        await cast.store.get(DIGEST, max_bytes=64)
        cast.a.failing = StoreUnreachable("away again")
        await cast.store.get(DIGEST, max_bytes=64)
        cast.now_s += REST_S
        cast.a.n_asked = 0
        await cast.store.get(DIGEST, max_bytes=64)
        assert cast.a.n_asked == 1

    run(check())


@pytest.mark.parametrize("failure", [StoreUnreachable("away"), StoreFull("full"), StorageError("broken")])
def test_a_write_needs_enough_stores_and_the_others_catch_up(failure: Exception) -> None:
    async def check() -> None:
        cast = Cast(copies=2)
        cast.a.failing = failure
        assert await cast.store.put(DATA, topic="t") == DIGEST
        assert cast.store.missed == {"a": 1, "b": 0, "c": 0}
        assert [told[0] for told in cast.told] == ["a"]
        cast.a.failing = None
        cast.now_s += REST_S
        other = await cast.store.put(b"other", topic="t")
        assert cast.store.missed == {"a": 0, "b": 0, "c": 0}
        assert list(await cast.a.list("t")) == sorted([DIGEST, other])
        assert await cast.a.get(DIGEST, max_bytes=64) == DATA

    run(check())


def test_a_write_that_too_few_stores_hold_fails_and_may_be_repeated() -> None:
    async def check() -> None:
        cast = Cast(copies=2)
        cast.a.failing = cast.b.failing = StoreUnreachable("away")
        with pytest.raises(StoreUnreachable, match="1 of 3 stores hold it, 2 must; away"):
            await cast.store.put(DATA, topic="t")
        cast.a.failing = cast.b.failing = None
        # Both are at rest, and asked all the same: without them there are too few.
        assert await cast.store.put(DATA, topic="t") == DIGEST
        assert cast.a.digests() == cast.b.digests() == [DIGEST]

    run(check())


def test_a_list_brings_a_new_store_what_the_others_have() -> None:
    async def check() -> None:
        cast = Cast()
        digests = sorted([await cast.b.put(bytes([i]), topic="t") for i in range(20)])
        assert list(await cast.store.list("t")) == digests
        while any(cast.store.missed.values()):
            assert list(await cast.store.list("t")) == digests
        assert list(await cast.a.list("t")) == list(await cast.c.list("t")) == digests
        assert cast.a.digests() == digests

    run(check())


def test_a_store_that_lists_what_nobody_has_changes_nothing() -> None:
    async def check() -> None:
        cast = Cast()
        await cast.a.put(DATA, topic="t")
        cast.a.damage(DIGEST, None)
        assert list(await cast.store.list("t")) == [DIGEST]
        assert cast.b.digests() == cast.c.digests() == []
        assert cast.store.missed == {"a": 0, "b": 0, "c": 0}
        assert cast.told == [("a", "lost", False)]

    run(check())


def test_a_list_needs_one_store() -> None:
    async def check() -> None:
        cast = Cast()
        await cast.store.put(DATA, topic="t")
        cast.a.failing = cast.b.failing = StoreUnreachable("away")
        assert list(await cast.store.list("t")) == [DIGEST]
        cast.c.failing = StoreUnreachable("away, too")
        with pytest.raises(StoreUnreachable, match="away"):
            await cast.store.list("t")

    run(check())


def test_a_check_reads_every_copy() -> None:
    async def check() -> None:
        cast = Cast()
        for data in (DATA, b"1", b"2"):
            await cast.store.put(data, topic="t")
        cast.b.damage(DIGEST, b"wrong")
        cast.c.damage(blake3_digest(b"1"), None)
        for one in (cast.a, cast.b, cast.c):
            one.damage(blake3_digest(b"2"), b"wrong")
        assert await cast.store.check("t", max_bytes=64) == 3
        assert sorted(cast.told) == sorted(
            [("b", "swapped", True), ("c", "lost", True), *((name, "swapped", False) for name in "abc")]
        )
        cast.faults.clear()
        cast.a.damage(blake3_digest(b"2"), b"2")
        assert await cast.store.check("t", max_bytes=64) == 3
        assert sorted(cast.told) == [("b", "swapped", True), ("c", "swapped", True)]
        cast.faults.clear()
        assert await cast.store.check("t", max_bytes=64) == 3
        assert cast.faults == []

    run(check())


def test_copies_must_be_possible() -> None:
    for copies in (0, 4):
        with pytest.raises(ValueError, match="copies must be from 1 to 3"):
            Cast(copies=copies)


def test_a_home_names_its_stores(tmp_path: Path) -> None:
    settings = Settings(blobs=("one", "two"), blob_access=BlobAccess(copies=2))
    assert settings_from_json(settings_to_json(settings)) == settings
    assert settings.stores == ("one", "two")
    assert Settings(blobs="one").stores == ("one",)
    faults: list[BlobFault] = []

    async def check() -> None:
        store = stores.open_blobs(Home(tmp_path), settings, report=faults.append)
        assert isinstance(store, ReplicatedBlobStore)
        async with store:
            digest = await store.put(DATA, topic="t")
            (tmp_path / "one" / "blobs" / digest.hex()).write_bytes(DATA[:7])
            assert await store.get(digest, max_bytes=64) == DATA
        for name in ("one", "two"):
            assert FolderBlobStore(tmp_path / name).check() == []

    run(check())
    assert [(fault.store, fault.kind, fault.is_repaired) for fault in faults] == [
        ("1: one", "truncated", True)
    ]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"blobs": []}', "blobs"),
        ('{"blobs": [""]}', "blobs"),
        ('{"blobs": ["a", "a"]}', "blobs"),
        ('{"blobs": ["1", "2", "3", "4", "5", "6", "7", "8", "9"]}', "blobs"),
        ('{"blobs": [["a"]]}', "blobs"),
        ('{"blob_access": {"copies": 2}}', "copies"),
        ('{"blobs": ["a", "b"], "blob_access": {"copies": 3}}', "copies"),
        ('{"blob_access": {"timeout_ms": 1}}', "timeout_ms"),
        ('{"blob_access": {"retries": 99}}', "retries"),
        ('{"blob_access": {"secret": "x"}}', "secret"),
    ],
)
def test_malformed_settings_are_refused_and_name_the_field(text: str, field: str) -> None:
    with pytest.raises(ConfigRefused, match=field):
        settings_from_json(text.encode())
