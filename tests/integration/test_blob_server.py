"""The blob server, asked by hand and by its client: what it answers, refuses, limits and cuts off."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from blob_services import certificates, serving, signer
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import ConfigRefused, StorageError
from galaxylearning.listening import client_tls
from galaxylearning.storage import blob_server
from galaxylearning.storage.blob_names import AccessRefused, BlobAltered, Patience, StoreUnreachable
from galaxylearning.storage.blob_server import serve_blobs
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.http_blobs import HttpBlobStore
from galaxylearning.storage.http_ranges import answered_range
from galaxylearning.storage.store_settings import StoreSettings

QUICK = Patience(5.0, 0)


def ask(tmp_path: Path, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """Status and JSON of one request to a server of an empty folder."""

    async def call() -> tuple[int, Any]:
        stall_ms = options.pop("stall_ms", 30_000)
        async with (
            serving(tmp_path / "store", max_blob_bytes=1_000, stall_timeout_ms=stall_ms) as url,
            aiohttp.ClientSession() as session,
            session.request(method, URL(url + path, encoded=True), **options) as response,
        ):
            return response.status, json.loads(await response.read())

    return anyio.run(call)


def test_the_server_answers_as_documented(tmp_path: Path) -> None:
    name = blake3_digest(b"blob").hex()
    assert ask(tmp_path, "PUT", "/topics/a/b", data=b"blob") == (201, {"digest": name})
    assert ask(tmp_path, "GET", "/topics/a/b") == (200, {"digests": [name], "is_more": False})
    assert (tmp_path / "store" / "blobs" / name).read_bytes() == b"blob"
    other = blake3_digest(b"other").hex()
    assert ask(tmp_path, "PUT", f"/blobs/{other}", data=b"other") == (201, {"digest": other})
    assert ask(tmp_path, "GET", "/topics/a/b")[1]["digests"] == [name]
    behind = f"/topics/a/b?after={name}"
    assert ask(tmp_path, "GET", behind) == (200, {"digests": [], "is_more": False})


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
        ("PUT", "/topics/a", {"data": bytes(1_001)}, 413),
        ("PUT", "/topics/a", {"data": drip()}, 411),
        ("PUT", "/topics/a", {"data": stall(), "headers": {"Content-Length": "9"}, "stall_ms": 50}, 408),
        ("PUT", "/topics/a", {"data": b"x", "headers": {"Galaxy-Digest": "0" * 64}}, 400),
        ("PUT", "/topics/a", {"data": b"x", "headers": {"Galaxy-Digest": "0" * 63}}, 400),
        ("PUT", "/blobs/" + "0" * 64, {"data": b"x"}, 400),
        ("PUT", "/blobs/x", {"data": b"x"}, 400),
        ("GET", "/topics/a?after=x", {}, 400),
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
        digest = await FolderBlobStore(tmp_path).put(b"blob", topic="t")
        async with (
            serving(tmp_path) as url,
            aiohttp.ClientSession() as session,
            anyio.create_task_group() as group,
        ):
            for _ in range(10):
                headers = {"Content-Length": "9"}
                group.start_soon(partial(session.put, url + "/topics/a", data=begin(), headers=headers))
            await all_begun.wait()
            with anyio.fail_after(20):
                assert await HttpBlobStore(url).get(digest, max_bytes=10) == b"blob"
            group.cancel_scope.cancel()
        assert FolderBlobStore(tmp_path).digests() == [digest]
        assert list((tmp_path / "tmp").iterdir()) == []

    anyio.run(call)


def test_an_altered_blob_is_found_out_and_put_right_by_putting_it(tmp_path: Path) -> None:
    async def call() -> None:
        async with serving(tmp_path) as url, HttpBlobStore(url) as client:
            digest = await client.put(b"blob", topic="t")
            (tmp_path / "blobs" / digest.hex()).write_bytes(b"blub")
            with pytest.raises(BlobAltered, match="not what its digest says") as caught:
                await client.get(digest, max_bytes=100)
            assert caught.value.data == b"blub"
            await client.put(b"blob", topic="t")
            assert await client.get(digest, max_bytes=100) == b"blob"

    anyio.run(call)


@pytest.mark.parametrize(
    ("header", "status", "body"),
    [
        (None, 200, b"0123456789"),
        ("bytes=0-", 206, b"0123456789"),
        ("bytes=3-5", 206, b"345"),
        ("bytes=9-", 206, b"9"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=5-3", 400, None),
        ("bytes=0-1,3-4", 400, None),
        ("lines=1-2", 400, None),
    ],
)
def test_a_part_of_a_blob(tmp_path: Path, header: str | None, status: int, body: bytes | None) -> None:
    async def call() -> None:
        digest = await FolderBlobStore(tmp_path).put(b"0123456789", topic="t")
        headers = {} if header is None else {"Range": header}
        async with (
            serving(tmp_path) as url,
            aiohttp.ClientSession() as session,
            session.get(f"{url}/blobs/{digest.hex()}", headers=headers) as response,
        ):
            assert response.status == status
            if body is not None:
                assert await response.read() == body
                assert response.headers["ETag"] == f'"{digest.hex()}"'
            if status == 206 and body is not None:
                assert answered_range(response.headers["Content-Range"]).length == len(body)

    anyio.run(call)


def test_long_lists_come_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_server, "PAGE_DIGESTS", 3)

    async def call() -> None:
        async with serving(tmp_path) as url, HttpBlobStore(url) as client:
            digests = [await client.put(bytes([i]), topic="t") for i in range(10)]
            assert list(await client.list("t")) == sorted(digests)

    anyio.run(call)


def test_connections_are_limited_and_silent_ones_are_cut(tmp_path: Path) -> None:
    async def call() -> None:
        async with serving(tmp_path, max_connections=3, stall_timeout_ms=200) as url:
            port = URL(url).port
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            silent[0][1].write(b"GET /topics/a HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            refused = await reader.read()
            assert refused.startswith(b"HTTP/1.1 503 ")
            head, _, body = refused.partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in head
            writer.close()
            # The silent ones are cut without a word, and there is room again.
            for reader, writer in silent:
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            assert list(await HttpBlobStore(url).list("a")) == []

    anyio.run(call)


def test_a_reader_that_stops_reading_is_cut(tmp_path: Path) -> None:
    async def call() -> None:
        digest = await FolderBlobStore(tmp_path).put(bytes(32 << 20), topic="t")
        async with serving(tmp_path, stall_timeout_ms=200, max_connections=1) as url:
            with socket.create_connection(("127.0.0.1", URL(url).port)) as reader:
                reader.sendall(f"GET /blobs/{digest.hex()} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                # There is room for another once the server has given this one up.
                with pytest.raises(StoreUnreachable, match="503"):
                    await HttpBlobStore(url, patience=QUICK).list("t")
                patient = HttpBlobStore(url, patience=Patience(10.0, 8, 0.05))
                assert list(await patient.list("t")) == [digest]

    anyio.run(call)


def test_large_headers_and_other_junk_are_refused_without_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def call() -> None:
        async with serving(tmp_path) as url:
            for head in (
                b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a client that speaks TLS\r\n\r\n",
                b"GET / HTTP/1.1\r\n\r\n",
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
                writer.write(head)
                assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
                writer.close()

    anyio.run(call)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])  # noqa: S104 - refused
def test_only_loopback_is_served_without_tls_and_keys(tmp_path: Path, host: str) -> None:
    async def call(**settings: Any) -> None:
        async with serving(tmp_path, host=host, **settings):
            pytest.fail("listened")

    for settings in ({}, {"accounts": (signer(1).address,)}, {"is_behind_proxy": True}):
        with pytest.raises(ConfigRefused, match="loopback"):
            anyio.run(partial(call, **settings))


def test_it_listens_wider_with_tls_and_keys(tmp_path: Path) -> None:
    authority, certificate, key = certificates(tmp_path)

    async def call() -> None:
        async with serving(
            tmp_path / "store",
            host="0.0.0.0",  # noqa: S104 - with TLS and keys
            tls_certificate=str(certificate),
            tls_key=str(key),
            accounts=(signer(1).address,),
        ) as url:
            assert url.startswith("https://localhost:")
            tls = client_tls(authority)
            async with HttpBlobStore(url, signer=signer(1), tls=tls) as client:
                digest = await client.put(b"blob", topic="t")
            async with HttpBlobStore(url, tls=tls) as stranger:
                assert await stranger.get(digest, max_bytes=4) == b"blob"
                with pytest.raises(AccessRefused, match="signed"):
                    await stranger.put(b"x", topic="t")
            with pytest.raises(StoreUnreachable):
                await HttpBlobStore(url, patience=Patience(5.0, 0)).get(digest, max_bytes=4)
            plain = HttpBlobStore(url.replace("https", "http"), patience=Patience(5.0, 0))
            with pytest.raises(StoreUnreachable):
                await plain.get(digest, max_bytes=4)

    anyio.run(call)


def test_a_taken_port_or_store_is_told(tmp_path: Path) -> None:
    async def call(root: Path) -> None:
        async with serving(tmp_path / "a") as url:
            settings = StoreSettings(port=URL(url).port or 0)
            async with serve_blobs(root, settings):
                pytest.fail("listened")

    with pytest.raises(StoreUnreachable, match="cannot listen"):
        anyio.run(call, tmp_path / "b")
    with pytest.raises(StorageError, match="another process"):
        anyio.run(call, tmp_path / "a")


def test_a_large_blob_is_streamed_both_ways_in_little_memory(tmp_path: Path) -> None:
    """The server's own process: 64 MiB go in and out while it may not have 48 MiB more than it began with."""
    program = """
import anyio, resource, sys
from pathlib import Path
from galaxylearning.storage.blob_server import serve_blobs
from galaxylearning.storage.store_settings import StoreSettings
def size():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) << 10
async def main():
    async with serve_blobs(Path(sys.argv[1]), StoreSettings(port=0, keep_free_bytes=0)) as url:
        await anyio.to_thread.run_sync(lambda: None)
        limit = size() + (256 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(url, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, flush=True)
anyio.run(main)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        data = os.urandom(64 << 20)

        async def call() -> None:
            async with HttpBlobStore(url) as client:
                digest = await client.put(data, topic="t")
                assert await client.get(digest, max_bytes=len(data)) == data

        anyio.run(call)
        process.stdin.write("\n")
        process.stdin.flush()
        assert int(process.stdout.readline()) < 48
