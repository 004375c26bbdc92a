"""Blob services that really run here, each with a hand inside that damages what it holds."""

from __future__ import annotations

import asyncio
import http.client
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from galaxylearning.storage.blob_names import Patience, RestorableBlobStore
from galaxylearning.storage.blob_server import serve_blobs
from galaxylearning.storage.blobs import FolderBlobStore
from galaxylearning.storage.http_blobs import HttpBlobStore
from galaxylearning.storage.s3_blobs import S3BlobStore, S3Credentials, S3Place
from galaxylearning.storage.store_settings import StoreSettings
from galaxylearning.units import Digest

PATIENT = Patience(20.0, 2, 0.05)
HASTY_S = 0.15
HASTY = Patience(HASTY_S, 0, 0.0)


class Service(Protocol):
    """A store as nodes use it, and what can be done to it behind its back."""

    @property
    def name(self) -> str: ...

    @property
    def store(self) -> RestorableBlobStore: ...

    @property
    def hasty(self) -> RestorableBlobStore:
        """The same store, with little patience: for answers that never come."""
        ...

    async def read(self, digest: Digest) -> bytes | None:
        """What lies under a digest, unchecked."""
        ...

    async def overwrite(self, digest: Digest, data: bytes | None) -> None:
        """Put something else there; None removes it."""
        ...

    def stall(self, is_stalled: bool) -> None:
        """Stop answering, or go on."""
        ...


class HeldStore:
    """A folder on a disk that may hang: calls wait while it does."""

    def __init__(self, inner: FolderBlobStore) -> None:
        self._inner = inner
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def put(self, data: bytes, *, topic: str) -> Digest:
        await self.goes_on.wait()
        return await self._inner.put(data, topic=topic)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        await self.goes_on.wait()
        return await self._inner.get(digest, max_bytes=max_bytes)

    async def list(self, topic: str) -> Sequence[Digest]:
        await self.goes_on.wait()
        return await self._inner.list(topic)

    async def restore(self, data: bytes) -> None:
        await self.goes_on.wait()
        await self._inner.restore(data)


@dataclass
class FolderService:
    """A folder."""

    root: Path
    name: str = "folder"
    store: HeldStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = HeldStore(FolderBlobStore(self.root))

    @property
    def hasty(self) -> RestorableBlobStore:
        return self.store

    async def read(self, digest: Digest) -> bytes | None:
        path = self.root / "blobs" / digest.hex()
        return path.read_bytes() if path.exists() else None

    async def overwrite(self, digest: Digest, data: bytes | None) -> None:
        path = self.root / "blobs" / digest.hex()
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    def stall(self, is_stalled: bool) -> None:
        if is_stalled:
            self.store.goes_on.clear()
        else:
            self.store.goes_on.set()


class Relay:
    """A TCP relay that can swallow what passes, or break a connection in the middle of an answer."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 0)
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.break_after_bytes: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            near, far = await asyncio.open_connection(*self._upstream)
            back = asyncio.create_task(self._pump(near, writer, is_answer=True))
            try:
                await self._pump(reader, far, is_answer=False)
            finally:
                back.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await back
                far.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while piece := await reader.read(1 << 16):
            if not self.goes_on.is_set():
                await self.goes_on.wait()
                break
            if is_answer and self.break_after_bytes is not None:
                left, self.break_after_bytes = self.break_after_bytes, None
                writer.write(piece[:left])
                break
            writer.write(piece)
            await writer.drain()
        writer.close()


@dataclass
class HttpService:
    """A blob server, reached through a relay."""

    root: Path
    relay: Relay
    name: str = "http"
    store: HttpBlobStore = field(init=False)
    hasty: HttpBlobStore = field(init=False)

    def __post_init__(self) -> None:
        url = f"http://127.0.0.1:{self.relay.port}"
        self.store = HttpBlobStore(url, patience=PATIENT)
        self.hasty = HttpBlobStore(url, patience=HASTY)

    async def read(self, digest: Digest) -> bytes | None:
        return await FolderService.read(self, digest)  # type: ignore[arg-type]

    async def overwrite(self, digest: Digest, data: bytes | None) -> None:
        await FolderService.overwrite(self, digest, data)  # type: ignore[arg-type]

    def stall(self, is_stalled: bool) -> None:
        if is_stalled:
            self.relay.goes_on.clear()
        else:
            self.relay.goes_on.set()


@dataclass
class S3Service:
    """A bucket, reached through a relay."""

    inside: S3Store
    relay: Relay
    name: str = "s3"
    store: S3BlobStore = field(init=False)
    hasty: S3BlobStore = field(init=False)

    def __post_init__(self) -> None:
        place = S3Place.from_url(
            f"s3://bucket/blobs?endpoint=http://127.0.0.1:{self.relay.port}&region=us-east-1"
        )
        credentials = S3Credentials("id", "secret")
        self.store = S3BlobStore(place, credentials=credentials, patience=PATIENT)
        self.hasty = S3BlobStore(place, credentials=credentials, patience=HASTY)

    async def read(self, digest: Digest) -> bytes | None:
        try:
            found = await obstore.get_async(self.inside, f"blobs/blobs/{digest.hex()}")
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None

    async def overwrite(self, digest: Digest, data: bytes | None) -> None:
        path = f"blobs/blobs/{digest.hex()}"
        if data is None:
            await obstore.delete_async(self.inside, path)
        else:
            await obstore.put_async(self.inside, path, data)

    def stall(self, is_stalled: bool) -> None:
        HttpService.stall(self, is_stalled)  # type: ignore[arg-type]


@contextmanager
def moto_bucket() -> Iterator[str]:
    """An S3 service in this process with an empty bucket; its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        connection = http.client.HTTPConnection(host, port)
        connection.request("PUT", "/bucket")
        connection.getresponse().read()
        connection.close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@asynccontextmanager
async def services(folder: Path, s3_url: str) -> AsyncIterator[list[Service]]:
    """One of each kind, running."""
    roots = [folder / name for name in ("folder", "http")]
    for root in roots:
        root.mkdir()
    inside = S3Store(
        config={
            "bucket": "bucket",
            "endpoint": s3_url,
            "region": "us-east-1",
            "access_key_id": "id",
            "secret_access_key": "secret",
        },
        client_options={"allow_http": True},
    )
    async with (
        serve_blobs(roots[1], StoreSettings(port=0, keep_free_bytes=0)) as http_url,
        Relay(http_url).open() as http_relay,
        Relay(s3_url).open() as s3_relay,
    ):
        found = HttpService(roots[1], http_relay)
        async with found.store, found.hasty:
            yield [FolderService(roots[0]), found, S3Service(inside, s3_relay)]
