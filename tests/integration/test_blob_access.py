"""Who may write to a blob server, and how much: signatures, replays, quotas, a full disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from blob_services import serving, signer
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import ConfigRefused
from galaxylearning.messages.store_request import DIGEST_HEADER, SIGNATURE_HEADER, StoreRequest
from galaxylearning.storage.blob_names import AccessRefused, Patience, StoreFull
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.http_blobs import HttpBlobStore
from galaxylearning.storage.store_settings import Quota, StoreSettings, store_settings_from_json
from galaxylearning.storage.store_usage import DAY_S, STRANGERS, StoreUsage

NOW_S = 20_000 * DAY_S + 1_000
ALICE, BOB = signer(1), signer(2)
QUICK = Patience(5.0, 0)
Check = Callable[[str], Awaitable[None]]


def serve(root: Path, check: Check, *, now: Callable[[], float] = lambda: NOW_S, **settings: Any) -> None:
    """Run a check against a server with these settings."""

    async def call() -> None:
        async with serving(root, now=now, **settings) as url:
            await check(url)

    anyio.run(call)


def client(url: str, number: int | None = 1, **options: Any) -> HttpBlobStore:
    """A client with this account."""
    account = None if number is None else signer(number)
    return HttpBlobStore(url, signer=account, patience=QUICK, now=lambda: NOW_S, **options)


def test_only_the_accounts_on_the_list_may_write(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        digest = await client(url, 1).put(b"blob", topic="t")
        with pytest.raises(AccessRefused, match=f"{BOB.address}.*not served"):
            await client(url, 2).put(b"other", topic="t")
        with pytest.raises(AccessRefused, match="signed requests"):
            await client(url, None).put(b"other", topic="t")
        with pytest.raises(AccessRefused, match="not served"):
            await client(url, 2).restore(b"other")
        # Reading is open unless said otherwise, and what is there already is no reason to let anybody write.
        assert await client(url, None).get(digest, max_bytes=4) == b"blob"
        assert list(await client(url, 2).list("t")) == [digest]
        with pytest.raises(AccessRefused):
            await client(url, 2).put(b"blob", topic="t")

    serve(tmp_path, check, accounts=(ALICE.address,))
    assert FolderBlobStore(tmp_path).digests() == [blake3_digest(b"blob")]


def test_reads_may_be_for_the_accounts_only(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        digest = await client(url, 1).put(b"blob", topic="t")
        assert await client(url, 1, signs_reads=True).get(digest, max_bytes=4) == b"blob"
        assert list(await client(url, 1, signs_reads=True).list("t")) == [digest]
        for stranger in (client(url, 1), client(url, 2, signs_reads=True), client(url, None)):
            with pytest.raises(AccessRefused):
                await stranger.get(digest, max_bytes=4)
            with pytest.raises(AccessRefused):
                await stranger.list("t")

    serve(tmp_path, check, accounts=(ALICE.address,), must_sign_reads=True)


def test_a_copied_request_can_only_repeat_what_its_author_did(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        authority, data = str(URL(url).authority), b"blob"
        request = StoreRequest(
            store=authority,
            method="PUT",
            path="/topics/t",
            topic="t",
            digest=blake3_digest(data),
            length=len(data),
            expires_at=NOW_S + 60,
        )
        headers = {
            DIGEST_HEADER: request.digest.hex(),
            SIGNATURE_HEADER: request.signed_by(ALICE.address, ALICE.sign_digest),
        }

        async def send(path: str = "/topics/t", data: bytes = data, method: str = "PUT", **other: str) -> int:
            async with (
                aiohttp.ClientSession() as session,
                session.request(method, url + path, data=data, headers=headers | other) as response,
            ):
                return response.status

        assert await send() == 201
        assert await send() == 201
        assert await send(path="/topics/u") == 401
        assert await send(path=f"/blobs/{request.digest.hex()}") == 401
        assert await send(data=b"blub") == 400
        assert await send(data=b"longer") == 401
        assert await send(Host="other.example") == 401
        headers[DIGEST_HEADER] = blake3_digest(b"blub").hex()
        assert await send(data=b"blub") == 401
        del headers[DIGEST_HEADER]
        assert await send() == 401

    serve(tmp_path, check, accounts=(ALICE.address,))
    store = FolderBlobStore(tmp_path)
    assert store.digests() == [blake3_digest(b"blob")]
    assert store.topics() == ["t"]
    with sqlite3.connect(tmp_path / "usage.sqlite") as database:
        used = dict(database.execute("SELECT scope, blobs FROM usage").fetchall())
    assert used == {f"day {NOW_S // DAY_S}": 1, "all": 1, "topic t": 1}


@pytest.mark.parametrize(
    ("names", "is_served"), [((), True), (("store.example",), False), (("a", "b"), False)]
)
def test_signatures_are_for_this_servers_names(
    tmp_path: Path, names: tuple[str, ...], is_served: bool
) -> None:
    async def check(url: str) -> None:
        if is_served:
            assert await client(url).put(b"x", topic="t")
        else:
            with pytest.raises(AccessRefused, match=r"not called|does not fit"):
                await client(url).put(b"x", topic="t")

    serve(tmp_path, check, accounts=(ALICE.address,), names=names)


def test_an_expired_signature_is_refused(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        with pytest.raises(AccessRefused, match="expired"):
            await client(url).put(b"x", topic="t")

    serve(tmp_path, check, accounts=(ALICE.address,), now=lambda: NOW_S + 301)


def test_a_days_quota_is_spent_and_is_there_again_tomorrow(tmp_path: Path) -> None:
    clock = [float(NOW_S)]

    async def check(url: str) -> None:
        writer = HttpBlobStore(url, signer=ALICE, patience=QUICK, now=lambda: clock[0])
        await writer.put(b"12345", topic="t")
        await writer.put(b"12345", topic="t")
        with pytest.raises(StoreFull, match=r"429.*8 bytes allowed"):
            await writer.put(b"6789", topic="t")
        await writer.put(b"678", topic="t")
        await HttpBlobStore(url, signer=BOB, patience=QUICK, now=lambda: clock[0]).put(b"1", topic="t")
        async with (
            aiohttp.ClientSession() as session,
            session.put(f"{url}/topics/t", data=b"anybody") as response,
        ):
            assert response.status == 401
        clock[0] += DAY_S
        await writer.put(b"6789", topic="t")

    quota = Quota(bytes_per_day=8)
    accounts = (ALICE.address, BOB.address)
    serve(tmp_path, check, now=lambda: clock[0], accounts=accounts, quota=quota)


@pytest.mark.parametrize(
    ("quota", "last"),
    [
        (Quota(blobs_total=3), (b"4", "t")),
        (Quota(bytes_total=3), (b"4", "t")),
        (Quota(blobs_per_topic=3), (b"4", "t")),
    ],
)
def test_quotas_in_all_are_kept_over_a_restart(tmp_path: Path, quota: Quota, last: tuple[bytes, str]) -> None:
    async def first(url: str) -> None:
        for data in (b"1", b"2", b"3"):
            await client(url).put(data, topic="t")

    async def then(url: str) -> None:
        await client(url).put(b"1", topic="t")  # nothing new
        with pytest.raises(AccessRefused, match="allowed"):
            await client(url).put(last[0], topic=last[1])
        await client(url, 2).put(*last[:1], topic=last[1])

    for check in (first, then):
        serve(tmp_path, check, accounts=(ALICE.address, BOB.address), quota=quota)


def test_strangers_share_one_allowance(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        await client(url, 2).put(b"12", topic="t")
        await client(url, 3).put(b"34", topic="t")
        with pytest.raises(StoreFull, match="anyone"):
            await client(url, 4).put(b"5", topic="t")
        await client(url, 1).put(b"5", topic="t")
        with pytest.raises(AccessRefused, match="signed"):
            await client(url, None).put(b"6", topic="t")

    serve(tmp_path, check, accounts=(ALICE.address,), anyone=Quota(bytes_per_day=4))


def test_a_full_topic_takes_no_more(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        for data in (b"1", b"2"):
            await client(url).put(data, topic="t")
        with pytest.raises(AccessRefused, match="topic t: holds 2"):
            await client(url).put(b"3", topic="t")
        await client(url).put(b"1", topic="t")
        await client(url).put(b"3", topic="u")

    serve(tmp_path, check, max_topic_blobs=2)


def test_a_full_store_says_so_before_the_disk_is(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        await client(url).put(b"12345", topic="t")
        with pytest.raises(StoreFull, match=r"507.*would hold 11 bytes"):
            await client(url).put(b"678901", topic="t")
        await client(url).put(b"67890", topic="t")
        await client(url).put(b"12345", topic="again")

    serve(tmp_path, check, max_store_bytes=10)
    book = usage(tmp_path, max_store_bytes=10)
    with pytest.raises(StoreFull, match="would hold"):
        book.charge("a", Quota(), "t", 1, now_s=NOW_S)
    book.close()


def usage(root: Path, **options: int) -> StoreUsage:
    """The book of a store as a new server finds it."""
    limits = {"max_store_bytes": 1 << 50, "keep_free_bytes": 0} | options
    return StoreUsage(root, stored_bytes=FolderBlobStore(root).stored_bytes(), **limits)


def test_what_is_on_its_way_counts_and_the_disk_keeps_some_space(tmp_path: Path) -> None:
    book = usage(tmp_path, max_store_bytes=10)
    charge = partial(book.charge, quota=Quota(), topic="t", now_s=NOW_S)
    first = charge("a", n_bytes=6)
    with pytest.raises(StoreFull, match="would hold 12"):
        charge("b", n_bytes=6)
    book.settle(first, is_new_blob=False, is_new_entry=False)
    assert book.used("a", "all") == (0, 0)
    second = charge("b", n_bytes=6)
    book.settle(second, is_new_blob=True, is_new_entry=True)
    assert book.used("b", "all") == (6, 1)
    third = charge("b", n_bytes=4)
    book.settle(third, is_new_blob=False, is_new_entry=True)
    assert book.used("b", "all") == (6, 2)
    book.close()
    book = usage(tmp_path, keep_free_bytes=1 << 62)
    with pytest.raises(StoreFull, match="free"):
        book.charge("a", Quota(), "t", 1, has_blob=True, now_s=NOW_S)
    book.close()


def test_an_upload_that_breaks_off_is_not_charged(tmp_path: Path) -> None:
    async def check(url: str) -> None:
        stream = await anyio.connect_tcp("127.0.0.1", URL(url).port or 0)
        await stream.send(b"PUT /topics/t HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123")
        await stream.aclose()
        await client(url, None).put(b"123456789", topic="u")

    serve(tmp_path, check)
    assert FolderBlobStore(tmp_path).digests() == [blake3_digest(b"123456789")]
    book = usage(tmp_path)
    assert book.used(STRANGERS, "all") == (9, 1)
    assert book.used(STRANGERS, "topic t") == (0, 0)
    book.close()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"", "store.json"),
        (b'{"prot": 1}', "prot"),
        (b'{"port": "x"}', "port"),
        (b'{"accounts": ["0x12"]}', "accounts"),
        (b'{"max_topic_blobs": 0}', "max_topic_blobs"),
        (b'{"stall_timeout_ms": 9}', "stall_timeout_ms"),
        (b'{"quota": {"bytes_per_day": -1}}', "quota"),
        (b'{"anyone": {"blobs_total": -1}}', "quota"),
        (b'{"names": ["https://x"]}', "names"),
        (b'{"names": ["X"]}', "names"),
        (b"[" * 90_000, "store.json"),
    ],
)
def test_malformed_settings_are_refused_and_name_the_field(text: bytes, field: str) -> None:
    with pytest.raises(Exception, match=field) as caught:
        store_settings_from_json(text)
    assert isinstance(caught.value, ConfigRefused)


def test_strangers_are_served_on_loopback_only_unless_told() -> None:
    settings = store_settings_from_json(b'{"accounts": [], "quota": {}}')
    assert settings == StoreSettings()
    assert settings.strangers(is_loopback=True) == Quota()
    assert settings.strangers(is_loopback=False) is None
    assert StoreSettings(accounts=(ALICE.address,)).strangers(is_loopback=True) is None
    assert store_settings_from_json(b'{"anyone": null}').strangers(is_loopback=True) is None
    assert not store_settings_from_json(b'{"anyone": null}').listening(Path()).has_keys
    assert StoreSettings(anyone=Quota(bytes_per_day=1)).listening(Path()).has_keys
    with pytest.raises(ConfigRefused, match="max_blob_bytes"):
        settings.changed({"max_blob_bytes": 0})
