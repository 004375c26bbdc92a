"""A blob store over HTTP: the server that offers one, and the client that is one.

::

    PUT /topics/{topic}    the body is the blob    201 {"digest": "<BLAKE3 in hex>"}
    GET /topics/{topic}                            200 {"digests": ["...", ...]}, ascending
    GET /blobs/{digest}                            200 the blob

A refusal is ``{"error": "..."}`` with a status of 4xx or 5xx. Nobody is believed: the server works out every
digest itself, and the client checks every byte it is given.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from aiohttp import web

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, ConfigRefused, GalaxyError, StorageError
from galaxylearning.ports import BlobStore
from galaxylearning.storage.blobs import DEFAULT_MAX_BLOB_BYTES, check_topic
from galaxylearning.units import Digest

MAX_LISTED: Final = 100_000
"""The most digests the server lists under one topic; the first ones, in ascending order."""

MAX_REPLY_BYTES: Final = 8 << 20
MAX_TRANSFERS: Final = 4
"""Blobs that the server holds in memory at once, in each direction; the next ones wait."""

TIMEOUT_S: Final = 30.0
TRANSFER_TIMEOUT_S: Final = 600.0

_T = TypeVar("_T", bound=msgspec.Struct)


class StoreUnreachable(StorageError):  # noqa: N818 - named like its neighbours in errors.py
    """The blob server did not answer, or not in time."""

    retryable = True


class _Stored(msgspec.Struct):
    digest: str


class _Listed(msgspec.Struct):
    digests: list[str]


class _Refusal(msgspec.Struct):
    error: str


# ---- server


@asynccontextmanager
async def serve_blobs(
    store: BlobStore,
    host: str = "127.0.0.1",
    port: int = 8787,
    *,
    max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES,
    timeout_s: float = TRANSFER_TIMEOUT_S,
) -> AsyncIterator[str]:
    """Serve ``store`` on a loopback address while the block runs; gives the URL. Port 0 picks a free one.

    An upload that takes longer than ``timeout_s`` is cut off.

    Raises:
        ConfigRefused: ``host`` is not a loopback address, or the port is out of range.
        StoreUnreachable: the port cannot be had.
    """
    if not _is_loopback(host):
        raise ConfigRefused(f"{host[:80]!r} given; allowed: a loopback address", where="host")
    if not 0 <= port <= 65_535:
        raise ConfigRefused(f"{port} given; allowed: 0 to 65535", where="port")
    runner = web.AppRunner(
        _application(store, max_blob_bytes, timeout_s), access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise StoreUnreachable(f"cannot listen on {host} port {port}: {error.strerror}") from error
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _application(store: BlobStore, max_blob_bytes: int, timeout_s: float) -> web.Application:
    # Apart, so that uploads that stall keep nobody from reading.
    arriving, leaving = asyncio.Semaphore(MAX_TRANSFERS), asyncio.Semaphore(MAX_TRANSFERS)

    async def put(request: web.Request) -> web.Response:
        topic = check_topic(request.match_info["topic"])
        async with arriving, asyncio.timeout(timeout_s):
            data = await _read(request.content, request.content_length, max_blob_bytes, "blob")
            digest = await store.put(data, topic=topic)
        return web.json_response({"digest": digest.hex()}, status=201)

    async def listed(request: web.Request) -> web.Response:
        digests = await store.list(request.match_info["topic"])
        return web.json_response({"digests": [digest.hex() for digest in digests[:MAX_LISTED]]})

    async def get(request: web.Request) -> web.Response:
        digest = _digest(request.match_info["digest"])
        async with leaving:
            data = await store.get(digest, max_bytes=max_blob_bytes)
        return web.Response(body=data, content_type="application/octet-stream")

    application = web.Application(middlewares=[_refusals])
    application.router.add_put("/topics/{topic:.+}", put)
    application.router.add_get("/topics/{topic:.+}", listed)
    application.router.add_get("/blobs/{digest:.+}", get)
    return application


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal as JSON. What a web page sends (it carries an ``Origin``) is refused."""
    if "Origin" in request.headers:
        return _refusal(403, "requests from web pages are refused")
    try:
        return await handler(request)
    except BlobMissing as error:
        return _refusal(404, str(error))
    except BlobRefused as error:
        return _refusal(400, str(error))
    except StorageError as error:
        return _refusal(507, str(error))
    except TimeoutError:
        return _refusal(408, "the blob did not arrive in time")
    except web.HTTPException as error:
        return _refusal(error.status, error.reason)


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


def _digest(text: str) -> Digest:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32 or digest.hex() != text:
        raise BlobRefused("must be 64 lower-case hexadecimal digits", where="digest")
    return Digest(digest)


async def _read(content: aiohttp.StreamReader, stated: int | None, max_bytes: int, what: str) -> bytes:
    """All of a body, refused as soon as it is known to be larger than ``max_bytes``."""
    too_large = BlobRefused(f"larger than the {max_bytes} bytes allowed here", where=what)
    if stated is not None and stated > max_bytes:
        raise too_large
    data = bytearray()
    async for piece in content.iter_chunked(1 << 16):
        if len(data) + len(piece) > max_bytes:
            raise too_large
        data += piece
    return bytes(data)


# ---- client


def check_url(url: str) -> str:
    """``url`` without a trailing slash, where it can be a blob server's.

    Raises:
        ConfigRefused: not a plain URL of http or https.
    """
    try:
        parts = urlsplit(url)
        is_plain = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
        _ = parts.port
    except ValueError:
        is_plain = False
    else:
        is_plain = is_plain and not parts.query and not parts.fragment and url.isprintable()
    if not is_plain:
        raise ConfigRefused(f"{url[:100]!r} given; allowed: http(s)://host[:port][/path]", where="blobs")
    return url.rstrip("/")


class HttpBlobStore:
    """Implements ``ports.BlobStore`` over a server of blobs.

    Entered as a context it keeps its connections; otherwise each call makes its own.

    Raises:
        ConfigRefused: ``url`` cannot be a blob server's.
    """

    def __init__(
        self, url: str, *, max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = check_url(url)
        self._max_blob_bytes = max_blob_bytes
        self._timeout = aiohttp.ClientTimeout(
            total=TRANSFER_TIMEOUT_S, sock_connect=timeout_s, sock_read=timeout_s
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._new_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store ``data`` and list it under ``topic``; see ``ports.BlobStore``.

        Raises:
            BlobRefused: too large, or the topic's name is malformed.
            StoreUnreachable: no answer in time.
            StorageError: what answers is no blob server, or its disk failed.
        """
        check_topic(topic)
        if len(data) > self._max_blob_bytes:
            raise BlobRefused(
                f"{len(data)} bytes where at most {self._max_blob_bytes} are allowed", where="blob"
            )
        digest = blake3_digest(data)
        reply = await self._ask("PUT", f"/topics/{quote(topic)}", f"topic {topic}", MAX_REPLY_BYTES, data)
        if self._decoded(reply, _Stored).digest != digest.hex():
            raise StorageError("stored something else than was sent", where=self.url)
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified; see ``ports.BlobStore``.

        Raises:
            BlobMissing: it is not there.
            BlobRefused: larger than ``max_bytes`` (the rest is not fetched), or not what its digest says.
            StoreUnreachable: no answer in time.
            StorageError: what answers is no blob server, or its disk failed.
        """
        if not isinstance(digest, bytes) or len(digest) != 32:
            raise BlobRefused("must be 32 bytes", where="digest")
        name = f"blob {digest.hex()}"
        data = await self._ask("GET", f"/blobs/{digest.hex()}", name, max_bytes)
        if blake3_digest(data) != digest:
            raise BlobRefused("is not what its digest says", where=name)
        return data

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic``, ascending; the first 100,000 where there are more.

        Raises:
            BlobRefused: the topic's name is malformed.
            StoreUnreachable: no answer in time.
            StorageError: what answers is no blob server, or its disk failed.
        """
        check_topic(topic)
        reply = await self._ask("GET", f"/topics/{quote(topic)}", f"topic {topic}", MAX_REPLY_BYTES)
        try:
            return sorted({_digest(text) for text in self._decoded(reply, _Listed).digests})
        except BlobRefused as error:
            raise StorageError("lists something that is no digest", where=self.url) from error

    async def _ask(
        self, method: str, path: str, what: str, max_bytes: int, data: bytes | None = None
    ) -> bytes:
        session = self._session or self._new_session()
        try:
            async with session.request(
                method, self.url + path, data=data, allow_redirects=False, timeout=self._timeout
            ) as response:
                if response.status in (200, 201):
                    return await _read(response.content, response.content_length, max_bytes, what)
                reply = await _read(response.content, response.content_length, MAX_REPLY_BYTES, what)
                raise self._refused(response.status, reply, what)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error)[:200] or type(error).__name__
            raise StoreUnreachable(f"no answer: {reason}", where=self.url) from error
        finally:
            if session is not self._session:
                await session.close()

    def _refused(self, status: int, reply: bytes, what: str) -> GalaxyError:
        message = self._decoded(reply, _Refusal).error[:300]
        if status == 404:
            return BlobMissing("is not in this store", where=what)
        if status in (400, 413):
            return BlobRefused(f"the store refused it: {message}", where=what)
        if status in (408, 429, 500, 502, 503, 504):
            return StoreUnreachable(f"answered {status}: {message}", where=self.url)
        return StorageError(f"answered {status}: {message}", where=self.url)

    def _decoded(self, reply: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(reply, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StorageError("what answers is not a Galaxy blob server", where=self.url) from error

    def _new_session(self) -> aiohttp.ClientSession:
        # Nothing is unpacked: a few bytes on the wire must not become gigabytes here.
        return aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
