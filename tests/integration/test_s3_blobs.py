"""A bucket as a blob store: what it holds, what the service can do to it, and what is never told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import obstore
import pytest
from aiohttp import web
from obstore.store import S3Store

from blob_services import Bucket, answering, buckets
from galaxylearning import stores
from galaxylearning.config import Home, Settings
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, ConfigRefused, StorageError
from galaxylearning.storage import s3_blobs
from galaxylearning.storage.blob_names import (
    AccessRefused,
    BlobAltered,
    Patience,
    StoreLate,
    StoreUnreachable,
)
from galaxylearning.storage.s3_blobs import S3BlobStore, S3Credentials, S3Place, read_credentials

QUICK = Patience(5.0, 0)
SECRET = "hunter2hunter2"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """An S3 service in this process."""
    with buckets() as made:
        yield made


def inside(bucket: Bucket) -> S3Store:
    """The bucket, as somebody who may do anything sees it."""
    return S3Store(
        config={
            "bucket": "bucket",
            "endpoint": bucket.endpoint,
            "region": "us-east-1",
            "access_key_id": "id",
            "secret_access_key": "secret",
        },
        client_options={"allow_http": True},
    )


def test_names_in_the_bucket_are_as_documented(bucket: Bucket) -> None:
    async def check() -> None:
        digest = await bucket.store("names/a").put(b"blob", topic="job/1/updates")
        listed = await obstore.list(inside(bucket), "names").collect_async()
        assert sorted((entry["path"], entry["size"]) for entry in listed) == [
            (f"names/a/blobs/{digest.hex()}", 4),
            (f"names/a/topics/job~1~updates/{digest.hex()}", 0),
        ]

    anyio.run(check)


def test_an_object_is_made_once_and_replaced_only_where_it_is_wrong(bucket: Bucket) -> None:
    async def check() -> None:
        store, hand = bucket.store("once"), inside(bucket)
        digest = await store.put(b"blob", topic="t")
        path = f"once/blobs/{digest.hex()}"
        made = await obstore.head_async(hand, path)
        await store.put(b"blob", topic="t")
        assert (await obstore.head_async(hand, path))["last_modified"] == made["last_modified"]
        await obstore.put_async(hand, path, b"blub")
        with pytest.raises(BlobAltered) as altered:
            await store.get(digest, max_bytes=4)
        assert altered.value.data == b"blub"
        await obstore.put_async(hand, path, b"much longer than it was")
        with pytest.raises(BlobRefused, match="larger than"):
            await store.get(digest, max_bytes=4)
        await store.put(b"blob", topic="t")
        assert await store.get(digest, max_bytes=4) == b"blob"

    anyio.run(check)


def test_long_lists_are_read_in_pages_and_cut(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_blobs, "_PAGE", 3)

    async def check() -> None:
        store = bucket.store("pages")
        digests = sorted([await store.put(bytes([i]), topic="t") for i in range(10)])
        await obstore.put_async(inside(bucket), "pages/topics/t/notes.txt", b"foreign")
        assert list(await store.list("t")) == digests
        monkeypatch.setattr(s3_blobs, "MAX_LISTED", 4)
        assert len(await store.list("t")) == 4

    anyio.run(check)


def test_a_list_that_goes_on_for_ever_is_given_up() -> None:
    page = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true</IsTruncated>'
        "<NextContinuationToken>more</NextContinuationToken><Contents><Size>0</Size><ETag>x</ETag>"
        f"<Key>x/topics/t/{'0' * 64}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        "</ListBucketResult>"
    )

    async def same_page(_request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="application/xml")

    async def call() -> None:
        async with answering(same_page) as url:
            with anyio.fail_after(20):
                await Bucket("").store("x", endpoint=url, patience=Patience(0.5, 0)).list("t")

    with pytest.raises(StoreLate, match="too slow"):
        anyio.run(call)


def test_what_the_service_cannot_do_is_told(bucket: Bucket) -> None:
    async def check() -> None:
        place = S3Place.from_url(f"s3://no-such-bucket/x?endpoint={bucket.endpoint}&region=us-east-1")
        store = S3BlobStore(place, credentials=S3Credentials("id", SECRET), patience=QUICK)
        for call in (
            store.put(b"x", topic="t"),
            store.get(blake3_digest(b"x"), max_bytes=1),
            store.list("t"),
        ):
            with pytest.raises(StorageError, match="no such bucket"):
                await call
        nowhere = bucket.store("x", endpoint="http://127.0.0.1:9", patience=QUICK)
        with pytest.raises(StoreUnreachable) as unreachable:
            await nowhere.get(blake3_digest(b"x"), max_bytes=1)
        assert unreachable.value.retryable

    anyio.run(check)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, AccessRefused),
        (401, AccessRefused),
        (500, StoreUnreachable),
        (503, StoreUnreachable),
        (409, StorageError),
    ],
)
def test_every_answer_becomes_one_of_our_errors(bucket: Bucket, status: int, kind: type[Exception]) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        body = f"<Error><Code>X</Code><Message>signature={SECRET}</Message></Error>"
        return web.Response(status=status, text=body)

    async def check() -> None:
        async with answering(refuse) as url:
            store = bucket.store("x", endpoint=url, patience=QUICK)
            with pytest.raises(kind) as told:
                await store.get(blake3_digest(b"x"), max_bytes=1)
            assert SECRET not in str(told.value)
            assert not isinstance(told.value, BlobMissing)
            with pytest.raises(StorageError):
                await store.list("t")
            with pytest.raises(StorageError):
                await store.put(b"x", topic="t")

    anyio.run(check)


def test_a_silent_or_endless_service_is_given_up(bucket: Bucket) -> None:
    async def silent(_request: web.Request) -> web.Response:
        await anyio.Event().wait()
        raise AssertionError

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Length": "10", "ETag": '"x"', "Last-Modified": "Sat, 01 Jan 2028 00:00:00 GMT"}
        )
        response.headers["Content-Length"] = str(1 << 40)
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    async def check() -> None:
        async with answering(silent) as url:
            store = bucket.store("x", endpoint=url, patience=Patience(0.2, 0))
            with pytest.raises(StoreLate):
                await store.get(blake3_digest(b"x"), max_bytes=1)
        async with answering(endless) as url:
            store = bucket.store("x", endpoint=url, patience=QUICK)
            with pytest.raises(BlobRefused, match="larger than the 100 bytes"):
                await store.get(blake3_digest(b"x"), max_bytes=100)

    anyio.run(check)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket", S3Place("bucket")),
        ("s3://bucket/", S3Place("bucket")),
        ("s3://my.bucket-1/a/b/", S3Place("my.bucket-1", "a/b")),
        (
            "s3://bucket/a?endpoint=https://s3.example:9000&region=eu-1&credentials=s3.json",
            S3Place("bucket", "a", "https://s3.example:9000", "eu-1", "s3.json"),
        ),
    ],
)
def test_a_place_is_a_url(url: str, place: S3Place) -> None:
    assert S3Place.from_url(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "s3:",
        "s3://",
        "s3://B",
        f"s3://user:{SECRET}@bucket/x",
        "s3://bucket/../x",
        "s3://bucket/./x",
        "s3://bucket/a b",
        "s3://bucket/%2e%2e/x",
        "s3://bucket#x",
        "s3://bucket?endpoint",
        "s3://bucket?endpoint=ftp://x",
        "s3://bucket?region=a&region=b",
        f"s3://bucket?secret_access_key={SECRET}",
        "s3://bucket?" + "&".join(f"a{i}=1" for i in range(50)),
        "http://bucket/x",
    ],
)
def test_anything_else_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigRefused, match="blobs") as refused:
        S3Place.from_url(url)
    assert SECRET not in str(refused.value)


def test_credentials_come_from_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    path = tmp_path / "s3.json"
    path.write_text(json.dumps({"access_key_id": "id", "secret_access_key": SECRET}))
    path.chmod(0o640)
    with pytest.raises(ConfigRefused, match="chmod 600"):
        read_credentials(path)
    path.chmod(0o600)
    found = read_credentials(path)
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("id", SECRET, None)
    assert SECRET not in repr(found)
    for text in (
        f'{{"access_key_id": "id", "secret": "{SECRET}"}}',
        SECRET,
        "[" * 10_000,
        "{}",
        " " * 20_000,
    ):
        path.write_text(text)
        with pytest.raises(ConfigRefused) as refused:
            read_credentials(path)
        assert SECRET not in str(refused.value)
        assert refused.value.__cause__ is None
    with pytest.raises(ConfigRefused, match="cannot be read"):
        read_credentials(tmp_path / "nothing")


def test_a_home_names_its_bucket(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s3.json"
    path.write_text(json.dumps({"access_key_id": "id", "secret_access_key": SECRET}))
    path.chmod(0o600)
    url = f"s3://bucket/home?endpoint={bucket.endpoint}&region=us-east-1"

    async def check(blobs: str) -> None:
        store = stores.open_blobs(Home(tmp_path), Settings(blobs=blobs))
        assert isinstance(store, S3BlobStore)
        assert await store.get(await store.put(b"blob", topic="t"), max_bytes=4) == b"blob"
        assert SECRET not in repr(store)

    anyio.run(check, f"{url}&credentials=s3.json")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    anyio.run(check, url)
    with pytest.raises(ConfigRefused, match=r"nothing\.json"):
        stores.open_blobs(Home(tmp_path), Settings(blobs=f"{url}&credentials=nothing.json"))
