"""A folder of blobs over HTTP.

::

    PUT /topics/{topic}    the body is a blob, listed under the topic    201 {"digest": "<BLAKE3 in hex>"}
    PUT /blobs/{digest}    the body is this blob, listed nowhere         201 {"digest": "..."}
    GET /topics/{topic}    ?after={digest}                    200 {"digests": [...], "is_more": false}
    GET /blobs/{digest}    Range: bytes=...                   200 or 206 and the bytes

A refusal is ``{"error": "..."}`` with a status of 4xx or 5xx. Blobs are streamed both ways and not kept in
memory. Nobody is believed: the server works out every digest itself; it does not read a blob
again before it sends it, since its readers check what they get.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from galaxylearning.connections import ConnectionGate
from galaxylearning.errors import BlobMissing, BlobRefused, MessageRefused, StorageError
from galaxylearning.listening import is_loopback
from galaxylearning.messages.store_request import (
    DIGEST_HEADER,
    SIGNATURE_HEADER,
    RequestSignature,
    StoreRequest,
)
from galaxylearning.storage.blob_names import (
    AccessRefused,
    StoreUnreachable,
    check_topic,
    digest_from_hex,
)
from galaxylearning.storage.blobs import BlobWriter, FolderBlobStore
from galaxylearning.storage.http_ranges import ByteRange, RangeUnsatisfiable, asked_range
from galaxylearning.storage.store_settings import HOW_TO_GIVE_KEYS, StoreSettings
from galaxylearning.storage.store_usage import STRANGERS, Charge, DayQuotaSpent, StoreUsage
from galaxylearning.units import ZERO_DIGEST, Address, Digest

PAGE_DIGESTS: Final = 10_000
PIECE_BYTES: Final = 1 << 18
MAX_LINE_BYTES: Final = 4_096
MAX_HEADERS: Final = 64

_LOG: Final = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether something is worth a line: not what strangers write in place of HTTP."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_LOG.addFilter(_is_ours)


class _BadSignature(MessageRefused):
    """A signature is missing or wrong."""


class _NoLength(BlobRefused):
    """A body whose length is not stated."""


class _TooLarge(BlobRefused):
    """A body that is too large."""


@asynccontextmanager
async def serve_blobs(
    root: Path, settings: StoreSettings, *, folder: Path | None = None, now: Callable[[], float] = time.time
) -> AsyncIterator[str]:
    """Serve the blob store in ``root`` while the block runs; gives the URL. Port 0 picks a free one.

    ``folder`` is what the settings' paths are relative to. ``now``: Unix seconds, for expiries and days.

    Raises:
        ConfigRefused: the settings would open it to the world without TLS and keys, or the TLS files are bad.
        StoreUnreachable: the port cannot be had.
        StorageError: another server has this store, or the disk failed.
    """
    listening = settings.listening(folder or root)
    listening.check(keys=HOW_TO_GIVE_KEYS)
    tls = listening.tls()
    store = FolderBlobStore(root, max_blob_bytes=settings.max_blob_bytes)
    usage = StoreUsage(
        root,
        stored_bytes=store.stored_bytes(),
        max_store_bytes=settings.max_store_bytes,
        keep_free_bytes=settings.keep_free_bytes,
    )
    try:
        server = _BlobServer(store, usage, settings, now)
        runner = web.AppRunner(
            server.application(),
            access_log=None,
            logger=_LOG,
            shutdown_timeout=1.0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=1.0,
            read_bufsize=PIECE_BYTES,
            auto_decompress=False,
        )
        await runner.setup()
        assert runner.server is not None  # noqa: S101 - set up above
        server.gate = ConnectionGate(
            runner.server,
            max_connections=settings.max_connections,
            max_per_address=settings.max_connections_per_address,
            idle_s=settings.stall_timeout_ms / 1000,
            tls=tls,
        )
        try:
            listener = await asyncio.get_running_loop().create_server(
                server.gate, listening.host, listening.port
            )
        except OSError as error:
            await runner.cleanup()
            raise StoreUnreachable(listening.refusal(error)) from error
        try:
            yield listening.url(int(listener.sockets[0].getsockname()[1]))
        finally:
            listener.close()
            await runner.cleanup()
            server.gate.close()
    finally:
        usage.close()


class _BlobServer:
    """Answers requests about one store."""

    gate: ConnectionGate

    def __init__(
        self, store: FolderBlobStore, usage: StoreUsage, settings: StoreSettings, now: Callable[[], float]
    ) -> None:
        self._store, self._usage, self._settings, self._now = store, usage, settings, now
        self._accounts = settings.known_accounts()
        is_open = is_loopback(settings.host) and not settings.is_behind_proxy
        self._strangers = settings.strangers(is_loopback=is_open)
        self._must_sign_writes = settings.must_sign_writes or bool(self._accounts) or not is_open
        self._stall_s = settings.stall_timeout_ms / 1000
        self._booking = asyncio.Lock()

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(middlewares=[self._refusals])
        routes = application.router
        routes.add_put("/topics/{topic:.+}", self._put, expect_handler=_expect_later)
        routes.add_put("/blobs/{digest:.+}", self._put, expect_handler=_expect_later)
        routes.add_get("/topics/{topic:.+}", self._list, allow_head=False)
        routes.add_get("/blobs/{digest:.+}", self._get, allow_head=False)
        return application

    @web.middleware
    async def _refusals(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Every refusal as JSON. What a web page sends (it carries an ``Origin``) is refused."""
        with self.gate.request(request.protocol):
            if "Origin" in request.headers:
                return _refusal(403, "requests from web pages are refused")
            try:
                return await handler(request)
            except web.HTTPException as error:
                return _refusal(error.status, error.reason)
            except (BlobMissing, BlobRefused, MessageRefused, StorageError, RangeUnsatisfiable) as error:
                return _refusal(_status_of(error), str(error), **_headers_of(error))
            except TimeoutError:
                return _refusal(408, "too slow")
            except ConnectionError:
                return _refusal(400, "the connection broke off")  # Nobody is there to read it.

    async def _put(self, request: web.Request) -> web.Response:
        name, topic = request.match_info.get("digest"), request.match_info.get("topic")
        if topic is not None:
            check_topic(topic)
        stated = name or request.headers.get(DIGEST_HEADER)
        digest = None if stated is None else digest_from_hex(stated)
        length = request.content_length
        if length is None:
            raise _NoLength("a Content-Length is required", where="blob")
        if length > self._settings.max_blob_bytes:
            raise _TooLarge(
                f"{length} bytes where at most {self._settings.max_blob_bytes} are allowed", where="blob"
            )
        account = self._account(request, topic or "", digest, length, must_sign=self._must_sign_writes)
        # What is there already costs its sender nothing; it is received all the same, and heals damage.
        charge = await self._charge(account, topic, digest, length)
        is_new_blob = is_new_entry = False
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            with self._store.receiving() as writer:
                await self._receive(request, writer, length)
                if digest is not None and writer.digest != digest:
                    raise BlobRefused(f"is not {digest.hex()}", where="blob")
                is_new_blob, is_new_entry = await asyncio.to_thread(writer.keep, topic)
                kept = writer.digest
        finally:
            is_new_entry = is_new_entry or (topic is None and is_new_blob)
            await asyncio.shield(self._settle(charge, is_new_blob, is_new_entry))
        return web.json_response({"digest": kept.hex()}, status=201)

    async def _receive(self, request: web.Request, writer: BlobWriter, length: int) -> None:
        """All of a body, in pieces of about 256 KiB."""
        gathered = bytearray()
        async with asyncio.timeout(self._patience_s(length)):
            while True:
                async with asyncio.timeout(self._stall_s):
                    piece = await request.content.readany()
                gathered += piece
                if gathered and (not piece or len(gathered) >= PIECE_BYTES):
                    await asyncio.to_thread(writer.write, bytes(gathered))
                    gathered.clear()
                if not piece:
                    return

    async def _list(self, request: web.Request) -> web.Response:
        topic = check_topic(request.match_info["topic"])
        after = digest_from_hex(request.query["after"]) if "after" in request.query else None
        self._account(request, topic, None, 0, must_sign=self._settings.must_sign_reads)
        digests = await asyncio.to_thread(self._store.listed, topic)
        if after is not None:
            digests = [digest for digest in digests if digest > after]
        page = [digest.hex() for digest in digests[:PAGE_DIGESTS]]
        return web.json_response({"digests": page, "is_more": len(digests) > len(page)})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        digest = digest_from_hex(request.match_info["digest"])
        self._account(request, "", digest, 0, must_sign=self._settings.must_sign_reads)
        file, size = self._store.opened(digest)
        with file:
            asked = request.headers.get("Range")
            part = ByteRange(0, size, size) if asked is None else asked_range(asked, size)
            response = web.StreamResponse(
                status=200 if asked is None else 206,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(part.length),
                    "Accept-Ranges": "bytes",
                    "ETag": f'"{digest.hex()}"',
                    "X-Content-Type-Options": "nosniff",
                },
            )
            if asked is not None:
                response.headers["Content-Range"] = part.content_range
            await response.prepare(request)
            try:
                await self._send(response, file, part)
            except (OSError, TimeoutError):
                # Too late for another status: the reader sees that the answer is too short.
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _send(self, response: web.StreamResponse, file: BinaryIO, part: ByteRange) -> None:
        """The bytes of a range.

        Raises:
            OSError: the reader left, or the file is shorter than it was (TimeoutError: too slow a reader).
        """
        file.seek(part.start)
        left = part.length
        async with asyncio.timeout(self._patience_s(part.length)):
            while left:
                piece = await asyncio.to_thread(file.read, min(PIECE_BYTES, left))
                if not piece:
                    raise OSError("the file has become shorter")
                left -= len(piece)
                async with asyncio.timeout(self._stall_s):
                    await response.write(piece)
            async with asyncio.timeout(self._stall_s):
                await response.write_eof()

    def _account(
        self, request: web.Request, topic: str, digest: Digest | None, length: int, *, must_sign: bool
    ) -> str:
        """Who asks, as a name in the book of usage.

        Raises:
            MessageRefused: there is no signature, or a wrong one.
            AccessRefused: this account is not served.
        """
        header = request.headers.get(SIGNATURE_HEADER)
        account = None if header is None else self._signer(request, header, topic, digest, length)
        if account is None and must_sign:
            raise _BadSignature("this server wants signed requests", where=SIGNATURE_HEADER)
        if account in self._accounts:
            return str(account)
        if self._strangers is None and (must_sign or request.method == "PUT"):
            raise AccessRefused("is not served here", where=str(account or "nobody"))
        return STRANGERS

    def _signer(
        self, request: web.Request, header: str, topic: str, digest: Digest | None, length: int
    ) -> Address:
        if request.method == "PUT" and digest is None:
            raise _BadSignature(f"a signed blob comes with its {DIGEST_HEADER}", where=SIGNATURE_HEADER)
        store = (request.host or "").lower()
        if len(self._settings.names) == 1:
            # Proxies often put their own name for the server in place of the client's.
            store = self._settings.names[0]
        elif self._settings.names and store not in self._settings.names:
            raise _BadSignature(f"this server is not called {store[:80]!r}", where="Host")
        try:
            signature = RequestSignature.from_header(header)
            asked = StoreRequest(
                store=store,
                method=request.method,
                path=request.path,
                expires_at=signature.expires_at,
                topic=topic if request.method == "PUT" else "",
                digest=(digest or ZERO_DIGEST) if request.method == "PUT" else ZERO_DIGEST,
                length=length,
            )
            return signature.check(asked, now_s=int(self._now()))
        except MessageRefused as error:
            raise _BadSignature(str(error)) from error

    async def _charge(self, account: str, topic: str | None, digest: Digest | None, length: int) -> Charge:
        quota = self._strangers if account == STRANGERS else self._settings.quota
        if quota is None:
            raise AccessRefused("is not served here", where=account)
        has_blob = digest is not None and self._store.holds(digest)
        has_entry = digest is not None and self._store.holds(digest, topic)
        most = self._settings.max_topic_blobs
        if topic is not None and not has_entry:
            n_listed = await asyncio.to_thread(self._store.listed_count, topic)
            if n_listed >= most:
                raise AccessRefused(f"holds {most} blobs; no more are taken", where=f"topic {topic}")
        async with self._booking:
            return await asyncio.to_thread(
                self._usage.charge,
                account,
                quota,
                topic,
                length,
                has_blob=has_blob,
                has_entry=has_entry,
                now_s=int(self._now()),
            )

    async def _settle(self, charge: Charge, is_new_blob: bool, is_new_entry: bool) -> None:
        async with self._booking:
            await asyncio.to_thread(
                self._usage.settle, charge, is_new_blob=is_new_blob, is_new_entry=is_new_entry
            )

    def _patience_s(self, n_bytes: int) -> float:
        return self._stall_s + n_bytes / self._settings.min_bytes_per_s


async def _expect_later(_request: web.Request) -> None:
    """``100 Continue`` is sent once the blob is admitted, not before."""


def _status_of(error: Exception) -> int:
    for kind, status in (
        (BlobMissing, 404),
        (RangeUnsatisfiable, 416),
        (_NoLength, 411),
        (_TooLarge, 413),
        (BlobRefused, 400),
        (_BadSignature, 401),
        (DayQuotaSpent, 429),
        (AccessRefused, 403),
        (MessageRefused, 400),
    ):
        if isinstance(error, kind):
            return status
    return 507


def _headers_of(error: Exception) -> dict[str, str]:
    if isinstance(error, DayQuotaSpent):
        return {"Retry-After": str(error.retry_after_s)}
    return {}


def _refusal(status: int, message: str, **headers: str) -> web.Response:
    return web.json_response({"error": message[:500]}, status=status, headers=headers)
