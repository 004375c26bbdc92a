"""The client of a blob server: what it can suffer from the server, and from the way between."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from aiohttp import web

from blob_services import answering, serving
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, ConfigRefused, StorageError
from galaxylearning.storage import blob_names
from galaxylearning.storage.blob_names import AccessRefused, Patience, StoreFull, StoreLate, StoreUnreachable
from galaxylearning.storage.http_blobs import HttpBlobStore

QUICK = Patience(5.0, 0)

# ---- the client, answered badly


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
        (503, b"<html>a proxy's</html>", StoreUnreachable),
        (401, b'{"error": "who?"}', AccessRefused),
        (403, b'{"error": "not you"}', AccessRefused),
        (413, b'{"error": "too large"}', BlobRefused),
        (429, b'{"error": "not today"}', StoreFull),
        (507, b'{"error": "disk full"}', StoreFull),
        (418, b'{"error": "teapot"}', StorageError),
        (200, b'{"digests": ["' + b"1" * 64 + b'", "' + b"0" * 64 + b'"]}', StorageError),
        (200, b'{"digests": ["' + b"0" * 64 + b'"], "is_more": true}', StorageError),
    ],
)
def test_every_answer_becomes_one_of_our_errors(status: int, body: bytes, error: type[Exception]) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "http://127.0.0.1:1/"})

    async def call() -> None:
        async with answering(answer) as url, HttpBlobStore(url, patience=QUICK) as client:
            await client.list("t")

    with pytest.raises(error) as raised:
        anyio.run(call)
    assert type(raised.value) is error


def test_nobody_there_is_retryable(tmp_path: Path) -> None:
    async def call() -> None:
        async with serving(tmp_path) as url:
            pass
        await HttpBlobStore(url, patience=QUICK).list("t")

    with pytest.raises(StoreUnreachable) as raised:
        anyio.run(call)
    assert raised.value.retryable


def test_a_silent_server_is_given_up() -> None:
    async def silent(_request: web.Request) -> web.Response:
        await anyio.Event().wait()
        raise AssertionError

    async def call() -> None:
        async with answering(silent) as url:
            await HttpBlobStore(url, patience=Patience(0.05, 1, 0)).list("t")

    with pytest.raises(StoreLate, match="no answer"):
        anyio.run(call)


def test_a_list_that_goes_on_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # At this rate a page of one digest is worth no time of its own.
    monkeypatch.setattr(blob_names, "MIN_BYTES_PER_S", 1 << 40)

    async def trickle(request: web.Request) -> web.Response:
        last = int(request.query.get("after", "00"), 16)
        return web.json_response({"digests": [f"{last + 1:064x}"], "is_more": True})

    async def call() -> None:
        async with answering(trickle) as url, HttpBlobStore(url, patience=Patience(0.5, 0)) as client:
            with anyio.fail_after(20):
                await client.list("t")

    with pytest.raises(StoreLate, match="too slow a list"):
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


@pytest.mark.parametrize("url", ["http://user:SECRET@host", "https://host/store?token=SECRET"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigRefused, match="host") as refused:
        HttpBlobStore(url)
    assert "SECRET" not in str(refused.value)


# ---- what breaks on the way


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4_096
    asked = []

    async def flaky(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        start = 0 if asked[-1] is None else int(asked[-1][6:-1])
        headers = {"Content-Length": str(len(data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        await response.write(data[start : start + 400_000])
        if start + 400_000 < len(data):
            assert request.transport is not None
            request.transport.close()
        return response

    async def call() -> None:
        async with answering(flaky) as url, HttpBlobStore(url, patience=Patience(5.0, 3, 0)) as client:
            assert await client.get(blake3_digest(data), max_bytes=len(data)) == data

    anyio.run(call)
    assert asked == [None, "bytes=400000-", "bytes=800000-"]


@pytest.mark.parametrize("content_range", [None, "bytes 0-9/10", "bytes 4-3/10", "bytes 4-10/10", "x"])
def test_another_part_than_was_asked_for_is_refused(content_range: str | None) -> None:
    n_asked = 0

    async def flaky(request: web.Request) -> web.StreamResponse:
        nonlocal n_asked
        n_asked += 1
        if n_asked > 1:
            headers = {} if content_range is None else {"Content-Range": content_range}
            return web.Response(status=206, body=b"456789", headers=headers)
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"0123")
        assert request.transport is not None
        request.transport.close()
        return response

    async def call() -> None:
        async with answering(flaky) as url, HttpBlobStore(url, patience=Patience(5.0, 3, 0)) as client:
            await client.get(blake3_digest(b"0123456789"), max_bytes=10)

    with pytest.raises(StorageError, match=r"range|Range"):
        anyio.run(call)


def test_a_busy_server_is_asked_again_and_a_refused_large_blob_is_not_sent(tmp_path: Path) -> None:
    n_asked = 0

    async def busy(request: web.Request) -> web.Response:
        nonlocal n_asked
        n_asked += 1
        if n_asked < 3:
            return web.json_response({"error": "busy"}, status=503)
        return web.json_response({"digest": blake3_digest(await request.read()).hex()}, status=201)

    async def call() -> None:
        async with answering(busy) as url, HttpBlobStore(url, patience=Patience(5.0, 3, 0)) as client:
            assert await client.put(b"x", topic="t") == blake3_digest(b"x")
        async with serving(tmp_path, max_blob_bytes=100) as url, HttpBlobStore(url) as client:
            with pytest.raises(BlobRefused, match="100 are allowed"):
                await client.put(bytes(8 << 20), topic="t")
            assert await client.put(bytes(100), topic="t")

    anyio.run(call)
    assert n_asked == 3
