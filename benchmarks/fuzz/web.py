"""HTTP from strangers: requests to the embedded chain's server and the blob server, replies to its client."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from benchmarks.fuzz.chain import NOW, requests
from benchmarks.fuzz.mutate import change_bytes
from benchmarks.fuzz.tables import Folder
from benchmarks.fuzz.target import Target

from galaxylearning.chain.embedded import EmbeddedChain, serve
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, StorageError
from galaxylearning.storage.blob_names import Patience
from galaxylearning.storage.blob_server import serve_blobs
from galaxylearning.storage.http_blobs import HttpBlobStore
from galaxylearning.storage.store_settings import StoreSettings

PATIENCE_S: Final = 20.0
BLOB: Final = b"a blob that is there"
MAX_BLOB_BYTES: Final = 1 << 20


class Web:
    """An event loop with the servers in it; what goes wrong in the loop is kept and raised."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.broken.append(context))
        self.broken: list[dict[str, Any]] = []
        self._stack = AsyncExitStack()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end, in bounded time.

        Raises:
            RuntimeError: something in the loop failed that nobody caught.
        """

        async def bounded() -> Any:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        found = self.loop.run_until_complete(bounded())
        if self.broken:
            context = self.broken.pop()
            raise RuntimeError(context["message"]) from context.get("exception")
        return found

    def enter(self, context: Any) -> Any:
        """Keep a server running."""
        return self.loop.run_until_complete(self._stack.enter_async_context(context))


async def _exchange(port: int, data: bytes) -> bytes:
    """Send bytes, close our half, read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""  # refused before everything was sent
    finally:
        writer.close()


def _check_served(received: bytes) -> bytes:
    """A refusal is fine; a server that does not know what happened to it is not.

    Raises:
        AssertionError: an answer of status 500, or none of HTTP.
    """
    first = received.partition(b"\r\n")[0]
    if received and (not first.startswith(b"HTTP/1.") or first.split(b" ")[1:2] == [b"500"]):
        raise AssertionError(f"answered {received[:200]!r}")
    return received


def _http(head: str, body: bytes = b"", *more: str) -> bytes:
    lines = [head, "Host: 127.0.0.1", *more, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _chain_requests() -> list[bytes]:
    body = requests()
    return [
        _http("POST / HTTP/1.1", body[0]),
        _http("POST / HTTP/1.0", body[8], "Connection: close"),
        _http("POST / HTTP/1.1", body[-1], "Content-Type: application/json", "Expect: 100-continue"),
        _http("POST / HTTP/1.1", body[4]) + _http("POST / HTTP/1.1", body[13]),
    ]


def _blob_requests() -> list[bytes]:
    digest = blake3_digest(BLOB).hex()
    chunked = b"PUT /topics/job-1/updates HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"5\r\nhello\r\n0\r\n\r\n"
    return [
        _http("PUT /topics/job-1/updates HTTP/1.1", b"hello"),
        _http("GET /topics/job-1/updates HTTP/1.1"),
        _http(f"GET /blobs/{digest} HTTP/1.1"),
        _http(f"GET /blobs/{digest} HTTP/1.1", b"", "Range: bytes=2-5"),
        _http(f"GET /blobs/{'0' * 64} HTTP/1.1", b"", "Connection: close"),
        _http(f"HEAD /blobs/{digest} HTTP/1.1"),
        chunked,
    ]


_LINES: Final = (
    b"Content-Length: 0",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 5, 5",
    b"Content-Length: 0x5",
    b"Content-Length: \xd9\xa3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Encoding: gzip",
    b"Content-Encoding: br",
    b"Expect: 100-continue",
    b"Expect: more",
    b"Upgrade: websocket",
    b"Connection: upgrade",
    b"Origin: http://evil",
    b"Host: ",
    b": empty",
    b"Range: bytes=0-18446744073709551615",
    b"Range: bytes=-1,5-",
    b"Cookie: " + b"a=b;" * 500,
    b"X: " + b"y" * 9000,
    b" folded",
    b"Content-Type: multipart/form-data",
    b"If-None-Match: *",
    b"Authorization: Bearer x",
    b"\xff: \xff",
)
_PATHS: Final = (
    b"/",
    b"//",
    b"/blobs/",
    b"/blobs/..%2f..%2fetc%2fpasswd",
    b"/blobs/%00",
    b"/topics/../x",
    b"/topics/%2e%2e/x",
    b"/topics/" + b"a/" * 3000,
    b"/topics/A",
    b"/topics/a%2Fb",
    b"/topics/~",
    b"*",
    b"http://a/b",
    b"/blobs/" + b"AB" * 32,
    b"/topics/a?x=1#y",
    b"/blobs/" + b"a" * 9000,
    b"/topics/%ff",
    b"/metrics",
    b"/topics/%E2%80%AE",
)


def mutate_http(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Lines of the head exchanged, added or repeated, another path or method, or the bytes changed."""
    data = rng.choice(seeds)
    if rng.random() < 0.4:
        return change_bytes(rng, data, seeds)
    head, separator, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.random()
        at = rng.randrange(len(lines))
        if kind < 0.4:
            lines.insert(at + 1, rng.choice(_LINES))
        elif kind < 0.5:
            del lines[at]
        elif kind < 0.6:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind < 0.85:
            words = lines[0].split(b" ")
            words[min(1, len(words) - 1)] = rng.choice(_PATHS)
            lines[0] = b" ".join(words)
        else:
            words = lines[0].split(b" ")
            words[0] = rng.choice(
                (b"POST", b"GET", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"CONNECT", b"get", b"\0")
            )
            lines[0] = b" ".join(words)
        lines = lines or [b""]
    if rng.random() < 0.3 and body:
        body = change_bytes(rng, body)
    return b"\r\n".join(lines) + separator + body


def _replies() -> list[bytes]:
    """What a blob server says; the client asks for ``BLOB``."""
    digest = blake3_digest(BLOB).hex()
    listing = json.dumps({"digests": [digest]}).encode()
    return [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 20\r\n\r\n" + BLOB,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n" + BLOB + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(listing) + listing,
    ]


class Replying:
    """A server that says what it was told, whoever asks; the client's three calls are tried on it."""

    def __init__(self, web: Web) -> None:
        self._web, self._reply = web, b""
        self._server = web.loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        port = self._server.sockets[0].getsockname()[1]
        self._store = HttpBlobStore(
            f"http://127.0.0.1:{port}", max_blob_bytes=MAX_BLOB_BYTES, patience=Patience(5.0, 0)
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self._reply)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def __call__(self, reply: bytes) -> object:
        """Fetch a blob, or the listing where the reply is about one."""
        self._reply = reply
        if b"digests" in reply:
            return self._web.run(self._store.list("job-1/updates"))
        return self._web.run(self._store.get(blake3_digest(BLOB), max_bytes=100))


def targets() -> list[Target]:
    """All of them."""
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    web = Web()
    chain = web.enter(serve(EmbeddedChain(None, now=lambda: NOW)))
    settings = StoreSettings(port=0, max_blob_bytes=MAX_BLOB_BYTES, max_topic_blobs=100_000)
    url = web.enter(serve_blobs(Folder().path, settings))
    web.run(HttpBlobStore(url).put(BLOB, topic="job-1/updates"))
    blob_port = int(url.rpartition(":")[2])
    return [
        Target(
            "chain server",
            _chain_requests(),
            lambda data: _check_served(web.run(_exchange(chain.port, data))),
            (),
            mutate_http,
        ),
        Target(
            "blob server",
            _blob_requests(),
            lambda data: _check_served(web.run(_exchange(blob_port, data))),
            (),
            mutate_http,
        ),
        Target(
            "blob client",
            _replies(),
            Replying(web),
            (BlobMissing, BlobRefused, StorageError),
            mutate_http,
        ),
    ]
