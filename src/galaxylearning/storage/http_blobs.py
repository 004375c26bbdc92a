"""A blob store over HTTP: the client of ``blob_server``, which has the table of requests.

Nothing that answers is believed: every byte is checked against the digest it was asked for. A download that
breaks off goes on where it stopped, and anything may be asked again, since a write changes nothing the second
time. What a server can make its client wait for, or keep in memory, is bounded.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Final, Self, TypeAlias, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, ConfigRefused, GalaxyError, StorageError
from galaxylearning.messages.store_request import DIGEST_HEADER, SIGNATURE_HEADER, StoreRequest
from galaxylearning.ports import MAX_LISTED, Signer
from galaxylearning.reaching import os_reason
from galaxylearning.storage.blob_names import (
    DEFAULT_MAX_BLOB_BYTES,
    LISTED_BYTES,
    AccessRefused,
    Patience,
    StoreFull,
    StoreLate,
    StoreUnreachable,
    check_digest,
    check_size,
    check_topic,
    checked_blob,
    digest_from_hex,
    too_large,
)
from galaxylearning.storage.http_ranges import ByteRange, answered_range
from galaxylearning.units import ZERO_DIGEST, Digest

MAX_REPLY_BYTES: Final = 2 << 20
VALIDITY_S: Final = 300
_WAITS_FOR_ADMISSION_BYTES: Final = 1 << 16
_R = TypeVar("_R")
_T = TypeVar("_T", bound=msgspec.Struct)
_Digests: TypeAlias = list[Digest]


class _Stored(msgspec.Struct):
    digest: str


class _Listed(msgspec.Struct):
    digests: list[str]
    is_more: bool = False


class _Refusal(msgspec.Struct):
    error: str


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
        # A user and a query are not repeated: they may hold a password.
        shown = url.rpartition("@")[2].partition("?")[0][:100]
        raise ConfigRefused(f"{shown!r} given; allowed: http(s)://host[:port][/path]", where="blobs")
    return url.rstrip("/")


def read_page(reply: bytes, *, after: Digest | None, where: str) -> tuple[list[Digest], bool]:
    """A page of a list: digests in ascending order, all of them behind ``after``, and whether there are more.

    Raises:
        StorageError: anything else; ``where`` names the server.
    """
    listed = _decoded(reply, _Listed, where)
    try:
        page = [digest_from_hex(text) for text in listed.digests]
    except BlobRefused as error:
        raise StorageError("lists something that is no digest", where=where) from error
    in_order = page if after is None else [after, *page]
    if any(one >= other for one, other in pairwise(in_order)):
        raise StorageError("lists digests out of order", where=where)
    return page, listed.is_more and bool(page)


def _decoded(reply: bytes, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.json.decode(reply, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StorageError("what answers is not a Galaxy blob server", where=where) from error


class HttpBlobStore:
    """Implements ``ports.BlobStore`` over a blob server.

    Entered as a context it keeps its connections; otherwise each call makes its own. With a ``signer`` every
    write is signed, and every read where ``signs_reads``. ``tls`` is what an https server is checked against,
    the system's certificates where there is none.

    Raises:
        ConfigRefused: ``url`` cannot be a blob server's.
    """

    def __init__(
        self,
        url: str,
        *,
        signer: Signer | None = None,
        signs_reads: bool = False,
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
        max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.url = check_url(url)
        address = URL(self.url)
        host = (address.host_subcomponent or "").lower()
        # What the Host header says, as the server will read it in the signature.
        self._authority = host if address.is_default_port() else f"{host}:{address.port}"
        self._signer, self._signs_reads, self._tls, self._now = signer, signs_reads, tls, now
        self._patience = patience or Patience()
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._patience.timeout_s, sock_read=self._patience.timeout_s
        )
        self._max_blob_bytes = max_blob_bytes
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
            AccessRefused: the server does not take it from this account.
            StoreFull: the server has no room, or not today.
            StoreUnreachable: no answer in time.
            StorageError: what answers is no blob server, or its disk failed.
        """
        return await self._upload(data, f"/topics/{quote(check_topic(topic))}", topic)

    async def restore(self, data: bytes) -> None:
        """Let the server hold ``data``, listed nowhere; raises as ``put``."""
        await self._upload(data, f"/blobs/{blake3_digest(data).hex()}", "")

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified; see ``ports.BlobStore``.

        Raises:
            BlobMissing: it is not there.
            BlobRefused: larger than ``max_bytes`` (the rest is not fetched), or not what its digest says
                (BlobAltered).
            AccessRefused: the server does not give it to this account.
            StoreUnreachable: no answer in time.
            StorageError: what answers is no blob server, or its disk failed.
        """
        name = check_digest(digest)
        data = bytearray()

        async def attempt(limit: asyncio.Timeout) -> None:
            await self._download(f"/blobs/{name}", name, data, max_bytes, limit)

        await self._persist(attempt, 0)
        return checked_blob(digest, bytes(data))

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic``, ascending; the first 100,000 where there are more.

        All pages together have as long as one transfer of as many bytes.

        Raises:
            BlobRefused: the topic's name is malformed.
            AccessRefused: the server does not tell this account.
            StoreUnreachable: no answer in time.
            StorageError: what answers is no blob server, or its disk failed.
        """
        path = f"/topics/{quote(check_topic(topic))}"
        found: _Digests = []
        is_more, begun_s = True, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._patience.transfer_s(0)) as limit:
                while is_more and len(found) < MAX_LISTED:
                    page, is_more = await self._page(path, topic, found[-1] if found else None)
                    found += page
                    limit.reschedule(begun_s + self._patience.transfer_s(len(found) * LISTED_BYTES))
        except TimeoutError as error:
            raise StoreLate("too slow a list, or no answer in time", where=self.url) from error
        return found[:MAX_LISTED]

    async def _page(self, path: str, topic: str, after: Digest | None) -> tuple[_Digests, bool]:
        query = {} if after is None else {"after": after.hex()}

        async def attempt(_: asyncio.Timeout) -> tuple[_Digests, bool]:
            async with self._asking("GET", path, f"topic {topic}", query=query) as response:
                return read_page(await self._reply(response), after=after, where=self.url)

        return await self._persist(attempt, 0)

    async def _upload(self, data: bytes, path: str, topic: str) -> Digest:
        check_size(data, self._max_blob_bytes)
        digest = blake3_digest(data)

        async def attempt(_: asyncio.Timeout) -> None:
            async with self._asking("PUT", path, f"topic {topic}", data=data, topic=topic) as response:
                if _decoded(await self._reply(response), _Stored, self.url).digest != digest.hex():
                    raise StorageError("stored something else than was sent", where=self.url)

        await self._persist(attempt, len(data))
        return digest

    async def _download(
        self, path: str, name: str, data: bytearray, max_bytes: int, limit: asyncio.Timeout
    ) -> None:
        """Append to ``data`` what is missing of a blob, which is all of it where a server knows no ranges."""
        headers = {"Range": f"bytes={len(data)}-"} if data else {}
        async with self._asking("GET", path, f"blob {name}", headers=headers) as response:
            if response.status == 206:
                part = self._part(response.headers.get("Content-Range"))
                if part.start != len(data):
                    raise StorageError("sent another range than was asked for", where=self.url)
                total = part.total
            else:
                data.clear()
                total = response.content_length or 0
            if total > max_bytes:
                raise too_large(name, max_bytes)
            begun_s = asyncio.get_running_loop().time()
            async for piece in response.content.iter_any():
                if len(data) + len(piece) > max_bytes:
                    raise too_large(name, max_bytes)
                data += piece
                limit.reschedule(begun_s + self._patience.transfer_s(len(data)))

    def _part(self, header: str | None) -> ByteRange:
        try:
            return answered_range(header)
        except BlobRefused as error:
            raise StorageError(str(error), where=self.url) from error

    async def _persist(self, attempt: Callable[[asyncio.Timeout], Awaitable[_R]], n_bytes: int) -> _R:
        """Repeat ``attempt`` while the server cannot be reached, with growing pauses and an end.

        ``n_bytes`` are sent each time; an attempt that receives some may put its end off.
        """
        try:
            async with asyncio.timeout(self._patience.transfer_s(n_bytes)) as limit:
                for number in range(self._patience.retries):
                    try:
                        return await attempt(limit)
                    except StoreUnreachable:
                        await asyncio.sleep(self._patience.backoff_s * 2**number)
                return await attempt(limit)
        except TimeoutError as error:
            raise StoreLate("too slow, or no answer in time", where=self.url) from error

    @asynccontextmanager
    async def _asking(
        self,
        method: str,
        path: str,
        what: str,
        *,
        data: bytes | None = None,
        topic: str = "",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request and its answer, if that is 200, 201 or 206."""
        session = self._session or self._new_session()
        sent = dict(headers or {}) | self._signed(method, path, data, topic)
        try:
            async with session.request(
                method,
                URL(self.url + path, encoded=True).with_query(query or {}),
                data=None if data is None else io.BytesIO(data),
                headers=sent,
                expect100=data is not None and len(data) >= _WAITS_FOR_ADMISSION_BYTES,
                allow_redirects=False,
                ssl=True if self._tls is None else self._tls,
                timeout=self._timeout,
            ) as response:
                if response.status not in (200, 201, 206):
                    raise self._refused(response, await self._reply(response), what)
                yield response
        except (aiohttp.ServerTimeoutError, TimeoutError) as error:
            raise StoreLate("no answer in time", where=self.url) from error
        except (aiohttp.ClientError, OSError) as error:
            raise StoreUnreachable(f"no answer: {os_reason(error)}", where=self.url) from error
        finally:
            if session is not self._session:
                await session.close()

    def _signed(self, method: str, path: str, data: bytes | None, topic: str) -> dict[str, str]:
        """The headers that say whose request this is; a write says its digest in any case."""
        digest = ZERO_DIGEST if data is None else blake3_digest(data)
        stated = {} if data is None else {DIGEST_HEADER: digest.hex()}
        if self._signer is None or (data is None and not self._signs_reads):
            return stated
        request = StoreRequest(
            store=self._authority,
            method=method,
            path=path,
            expires_at=int(self._now()) + VALIDITY_S,
            topic=topic,
            digest=digest,
            length=len(data or b""),
        )
        return stated | {SIGNATURE_HEADER: request.signed_by(self._signer.address, self._signer.sign_digest)}

    async def _reply(self, response: aiohttp.ClientResponse) -> bytes:
        """All of a short answer.

        Raises:
            StorageError: it is too long to be a blob server's.
        """
        reply = bytearray()
        async for piece in response.content.iter_any():
            reply += piece
            if len(reply) > MAX_REPLY_BYTES:
                raise StorageError(f"answered more than {MAX_REPLY_BYTES} bytes", where=self.url)
        return bytes(reply)

    def _refused(self, response: aiohttp.ClientResponse, reply: bytes, what: str) -> GalaxyError:
        status = response.status
        if status in (502, 503, 504):  # A proxy may say so, in a language of its own.
            return StoreUnreachable(f"answered {status}", where=self.url)
        message = _decoded(reply, _Refusal, self.url).error[:300]
        if status == 404:
            return BlobMissing("is not in this store", where=what)
        if status in (400, 413):
            return BlobRefused(f"the store refused it: {message}", where=what)
        if status in (401, 403):
            return AccessRefused(f"the store refused it: {message}", where=what)
        if status in (429, 507):
            return StoreFull(f"answered {status}: {message}", where=self.url)
        if status in (408, 416, 500):
            return StoreUnreachable(f"answered {status}: {message}", where=self.url)
        return StorageError(f"answered {status}: {message}", where=self.url)

    def _new_session(self) -> aiohttp.ClientSession:
        # Nothing is unpacked: a few bytes on the wire must not become gigabytes here.
        return aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
