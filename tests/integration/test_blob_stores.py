"""One suite over the blob-store port: folder, memory, HTTP, HTTPS, S3 and several of them together."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from blob_services import Bucket, buckets, certificates, serving, signer
from galaxylearning import ports
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused
from galaxylearning.listening import client_tls
from galaxylearning.storage.blob_names import RestorableBlobStore
from galaxylearning.storage.blobs import FolderBlobStore, MemoryBlobStore
from galaxylearning.storage.http_blobs import HttpBlobStore
from galaxylearning.storage.replicated_blobs import ReplicatedBlobStore
from galaxylearning.units import Digest

LIMIT = 1 << 16
Check = Callable[[ports.BlobStore], Awaitable[None]]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """An S3 service in this process."""
    with buckets() as made:
        yield made


KINDS = ("folder", "memory", "http", "http-per-call", "https-signed", "s3", "replicas")


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Check], None]:
    """Runs a check against one kind of store; everything in one event loop."""

    async def opened(check: Check) -> None:
        folder = FolderBlobStore(tmp_path / "store", max_blob_bytes=LIMIT)
        if request.param == "folder":
            await check(folder)
        elif request.param == "memory":
            await check(MemoryBlobStore(max_blob_bytes=LIMIT))
        elif request.param == "s3":
            await check(request.getfixturevalue("bucket").store(tmp_path.name, max_blob_bytes=LIMIT))
        elif request.param == "replicas":
            stores: dict[str, RestorableBlobStore] = {
                "a": folder,
                "b": MemoryBlobStore(max_blob_bytes=LIMIT),
                "c": MemoryBlobStore(max_blob_bytes=LIMIT),
            }
            async with ReplicatedBlobStore(
                stores, copies=3, monotonic_s=time.monotonic, report=print
            ) as store:
                await check(store)
        elif request.param == "https-signed":
            authority, certificate, key = certificates(tmp_path)
            async with (
                serving(
                    tmp_path / "store",
                    tls_certificate=str(certificate),
                    tls_key=str(key),
                    accounts=(signer(1).address,),
                    must_sign_reads=True,
                    max_blob_bytes=LIMIT,
                ) as url,
                HttpBlobStore(
                    url,
                    signer=signer(1),
                    signs_reads=True,
                    tls=client_tls(authority),
                    max_blob_bytes=LIMIT,
                ) as client,
            ):
                await check(client)
        else:
            async with serving(tmp_path / "store", max_blob_bytes=LIMIT) as url:
                client = HttpBlobStore(url, max_blob_bytes=LIMIT)
                if request.param == "http-per-call":
                    await check(client)
                else:
                    async with client:
                        await check(client)

    def call(check: Check) -> None:
        anyio.run(opened, check)

    return call


@pytest.mark.parametrize("data", [b"", b"x", bytes(LIMIT)])
def test_what_was_put_is_got(run: Callable[[Check], None], data: bytes) -> None:
    async def check(store: ports.BlobStore) -> None:
        digest = await store.put(data, topic="job/1/0xab/round")
        assert digest == blake3_digest(data)
        assert await store.get(digest, max_bytes=LIMIT) == data
        assert list(await store.list("job/1/0xab/round")) == [digest]

    run(check)


def test_putting_again_changes_nothing_and_lists_ascend(run: Callable[[Check], None]) -> None:
    async def check(store: ports.BlobStore) -> None:
        digests = [await store.put(bytes([i % 7]), topic="t") for i in range(14)]
        await store.put(b"\0", topic="other")
        assert list(await store.list("t")) == sorted(set(digests))
        assert len(await store.list("other")) == 1
        assert list(await store.list("nothing")) == []

    run(check)


def test_what_is_not_there_is_missing(run: Callable[[Check], None]) -> None:
    async def check(store: ports.BlobStore) -> None:
        with pytest.raises(BlobMissing, match=blake3_digest(b"never").hex()):
            await store.get(blake3_digest(b"never"), max_bytes=LIMIT)

    run(check)


def test_more_than_was_asked_for_is_refused(run: Callable[[Check], None]) -> None:
    async def check(store: ports.BlobStore) -> None:
        digest = await store.put(bytes(100), topic="t")
        assert len(await store.get(digest, max_bytes=100)) == 100
        with pytest.raises(BlobRefused, match="99 bytes allowed"):
            await store.get(digest, max_bytes=99)
        with pytest.raises(BlobRefused, match=f"at most {LIMIT} are allowed"):
            await store.put(bytes(LIMIT + 1), topic="t")
        assert len(await store.list("t")) == 1

    run(check)


@pytest.mark.parametrize("topic", ["", "/", "a//b", "../x", "A", "a b", "a?b", "a%2fb", "x" * 201])
def test_malformed_topics_are_refused(run: Callable[[Check], None], topic: str) -> None:
    async def check(store: ports.BlobStore) -> None:
        with pytest.raises(BlobRefused, match="topic"):
            await store.put(b"x", topic=topic)
        with pytest.raises(BlobRefused, match="topic"):
            await store.list(topic)

    run(check)


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)])
def test_malformed_digests_are_refused(run: Callable[[Check], None], digest: bytes) -> None:
    async def check(store: ports.BlobStore) -> None:
        with pytest.raises(BlobRefused, match="32 bytes"):
            await store.get(Digest(digest), max_bytes=LIMIT)

    run(check)


def test_a_blob_may_be_restored_without_being_listed(run: Callable[[Check], None]) -> None:
    async def check(store: ports.BlobStore) -> None:
        await store.restore(b"blob")  # type: ignore[attr-defined]
        assert await store.get(blake3_digest(b"blob"), max_bytes=4) == b"blob"
        assert list(await store.list("t")) == []
        with pytest.raises(BlobRefused, match="at most"):
            await store.restore(bytes(LIMIT + 1))  # type: ignore[attr-defined]

    run(check)


def test_topics_that_begin_alike_are_apart(run: Callable[[Check], None]) -> None:
    async def check(store: ports.BlobStore) -> None:
        one, other = await store.put(b"1", topic="job/1"), await store.put(b"2", topic="job/1/a")
        await store.put(b"3", topic="job/10")
        assert list(await store.list("job/1")) == [one]
        assert list(await store.list("job/1/a")) == [other]
        assert list(await store.list("job")) == []

    run(check)
