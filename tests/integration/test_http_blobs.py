"""One suite over the blob-store port (folder, memory, HTTP), then what only server and client can suffer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from galaxylearning import ports
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, ConfigRefused, StorageError
from galaxylearning.storage.blobs import FolderBlobStore, MemoryBlobStore
from galaxylearning.storage.http_blobs import HttpBlobStore, StoreUnreachable, serve_blobs
from galaxylearning.units import Digest

LIMIT = 1 << 16
Check = Callable[[ports.BlobStore], Awaitable[None]]


@pytest.fixture(params=["folder", "memory", "http", "http-per-call"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Check], None]:
    """Runs a check against one kind of store; everything in one event loop."""

    async def opened(check: Check) -> None:
        folder = FolderBlobStore(tmp_path / "store", max_blob_bytes=LIMIT)
        if request.param == "folder":
            await check(folder)
        elif request.param == "memory":
            await check(MemoryBlobStore(max_blob_bytes=LIMIT))
        else:
            async with serve_blobs(folder, port=0, max_blob_bytes=LIMIT) as url:
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


# ---- the server, asked by hand


def ask(tmp_path: Path, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """Status and JSON of one request to a server of an empty folder."""

    async def call() -> tuple[int, Any]:
        store = FolderBlobStore(tmp_path / "store")
        async with (
            serve_blobs(store, port=0, max_blob_bytes=1_000, timeout_s=options.pop("patience_s", 30)) as url,
            aiohttp.ClientSession() as session,
            session.request(method, url + path, **options) as response,
        ):
            return response.status, json.loads(await response.read())

    return anyio.run(call)


def test_the_server_answers_as_documented(tmp_path: Path) -> None:
    name = blake3_digest(b"blob").hex()
    assert ask(tmp_path, "PUT", "/topics/a/b", data=b"blob") == (201, {"digest": name})
    assert ask(tmp_path, "GET", "/topics/a/b") == (200, {"digests": [name]})
    assert (tmp_path / "store" / "blobs" / name).read_bytes() == b"blob"


async def drip() -> AsyncIterator[bytes]:
    """A body that never ends."""
    while True:
        yield b"x" * 100
        await anyio.sleep(0)


async def stall() -> AsyncIterator[bytes]:
    """A body that never goes on."""
    yield b"x"
    await anyio.Event().wait()


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("PUT", "/topics/a", {"data": bytes(1_001)}, 400),
        ("PUT", "/topics/a", {"data": drip()}, 400),
        ("PUT", "/topics/a", {"data": stall(), "patience_s": 0.05}, 408),
        ("PUT", "/topics/A", {"data": b"x"}, 400),
        ("PUT", "/topics/..%2f..%2fetc", {"data": b"x"}, 400),
        ("PUT", "/topics/a", {"data": b"x", "headers": {"Origin": "https://example.org"}}, 403),
        ("GET", "/blobs/" + "0" * 64, {}, 404),
        ("GET", "/blobs/" + "A" * 64, {}, 400),
        ("GET", "/blobs/zz", {}, 400),
        ("GET", "/blobs/..%2fgalaxy.json", {}, 400),
        ("GET", "/topics/a%20b", {}, 400),
        ("GET", "/", {}, 404),
        ("DELETE", "/topics/a", {}, 405),
        ("POST", "/blobs/" + "0" * 64, {"data": b"x"}, 405),
    ],
)
def test_bad_requests_get_json_and_change_nothing(
    tmp_path: Path, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    answered, reply = ask(tmp_path, method, path, **options)
    assert answered == status
    assert set(reply) == {"error"}
    assert FolderBlobStore(tmp_path / "store").digests() == []


def test_stalled_uploads_keep_nobody_from_reading(tmp_path: Path) -> None:
    n_begun, all_begun = 0, anyio.Event()

    async def begin() -> AsyncIterator[bytes]:
        nonlocal n_begun
        async for piece in stall():
            yield piece
            n_begun += 1
            if n_begun == 10:
                all_begun.set()

    async def call() -> None:
        store = FolderBlobStore(tmp_path)
        digest = await store.put(b"blob", topic="t")
        async with (
            serve_blobs(store, port=0) as url,
            aiohttp.ClientSession() as session,
            anyio.create_task_group() as group,
        ):
            for _ in range(10):
                group.start_soon(partial(session.put, url + "/topics/a", data=begin()))
            await all_begun.wait()
            with anyio.fail_after(20):
                assert await HttpBlobStore(url).get(digest, max_bytes=10) == b"blob"
            group.cancel_scope.cancel()

    anyio.run(call)


def test_an_altered_blob_is_refused_by_server_and_client(tmp_path: Path) -> None:
    async def call() -> None:
        store = FolderBlobStore(tmp_path)
        async with serve_blobs(store, port=0) as url, HttpBlobStore(url) as client:
            digest = await client.put(b"blob", topic="t")
            (tmp_path / "blobs" / digest.hex()).chmod(0o644)
            (tmp_path / "blobs" / digest.hex()).write_bytes(b"blub")
            with pytest.raises(BlobRefused, match="not what its digest says"):
                await client.get(digest, max_bytes=100)

    anyio.run(call)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])  # noqa: S104 - refused
def test_only_loopback_is_served(tmp_path: Path, host: str) -> None:
    async def call() -> None:
        async with serve_blobs(MemoryBlobStore(), host, 0):
            pass

    with pytest.raises(ConfigRefused, match="loopback"):
        anyio.run(call)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    async def call() -> None:
        async with (
            serve_blobs(MemoryBlobStore(), port=0) as url,
            serve_blobs(MemoryBlobStore(), port=int(url.rpartition(":")[2])),
        ):
            pass

    with pytest.raises(StoreUnreachable, match="cannot listen"):
        anyio.run(call)


# ---- the client, answered badly


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_a_lying_server_is_found_out() -> None:
    async def lie(request: web.Request) -> web.Response:
        if request.method == "PUT":
            return web.json_response({"digest": "00" * 32}, status=201)
        if request.path.startswith("/topics"):
            return web.json_response({"digests": ["zz"]})
        return web.Response(body=b"something else")

    async def call() -> None:
        async with answering(lie) as url, HttpBlobStore(url) as client:
            with pytest.raises(StorageError, match="something else than was sent"):
                await client.put(b"x", topic="t")
            with pytest.raises(StorageError, match="no digest"):
                await client.list("t")
            with pytest.raises(BlobRefused, match="not what its digest says"):
                await client.get(blake3_digest(b"x"), max_bytes=100)

    anyio.run(call)


def test_an_endless_answer_is_cut_off() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))
            sent += 1 << 16

    async def call() -> None:
        async with answering(endless) as url, HttpBlobStore(url) as client:
            with pytest.raises(BlobRefused, match="100 bytes allowed"):
                await client.get(blake3_digest(b"x"), max_bytes=100)

    anyio.run(call)
    assert sent < 64 << 20


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"not json", StorageError),
        (200, b'{"digests": 1}', StorageError),
        (200, b"[" * 100_000, StorageError),
        (302, b'{"error": "elsewhere"}', StorageError),
        (400, b'{"error": "no"}', BlobRefused),
        (404, b'{"error": "no"}', BlobMissing),
        (404, b"<html>", StorageError),
        (503, b'{"error": "busy"}', StoreUnreachable),
        (507, b'{"error": "disk full"}', StorageError),
    ],
)
def test_every_answer_becomes_one_of_our_errors(status: int, body: bytes, error: type[Exception]) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "http://127.0.0.1:1/"})

    async def call() -> None:
        async with answering(answer) as url, HttpBlobStore(url) as client:
            await client.list("t")

    with pytest.raises(error) as raised:
        anyio.run(call)
    assert type(raised.value) is error


def test_nobody_there_is_retryable() -> None:
    async def call() -> None:
        async with serve_blobs(MemoryBlobStore(), port=0) as url:
            pass
        await HttpBlobStore(url).list("t")

    with pytest.raises(StoreUnreachable) as raised:
        anyio.run(call)
    assert raised.value.retryable


def test_a_silent_server_is_given_up() -> None:
    async def silent(_request: web.Request) -> web.Response:
        await anyio.Event().wait()
        raise AssertionError

    async def call() -> None:
        async with answering(silent) as url:
            await HttpBlobStore(url, timeout_s=0.05).list("t")

    with pytest.raises(StoreUnreachable, match="no answer"):
        anyio.run(call)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://h",
        "http://",
        "http:///x",
        "http://u:p@h",
        "http://h?q",
        "http://h#f",
        "http://h:99999",
        "http://h\n",
    ],
)
def test_what_cannot_be_a_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigRefused, match="blobs"):
        HttpBlobStore(url)
