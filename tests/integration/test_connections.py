"""Servers that speak TLS, and clients that never end a handshake: each takes one place, for a while."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from blob_services import certificates, serving
from galaxylearning import connections
from galaxylearning.chain.embedded import EmbeddedChain, serve
from galaxylearning.chain.embedded import server as chain_server
from galaxylearning.listening import Listening, client_tls

PLACES = 4
REFUSALS = (b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 405 Method Not Allowed\r\n")
"""Of the blob server, and of the chain's."""
Serving = Callable[[Path, Path, Path], AbstractAsyncContextManager[int]]


@asynccontextmanager
async def blobs(folder: Path, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A blob server's port."""
    async with serving(
        folder, max_connections=PLACES, tls_certificate=str(certificate), tls_key=str(key)
    ) as url:
        yield URL(url).port or 0


@asynccontextmanager
async def chain(_folder: Path, certificate: Path, key: Path) -> AsyncIterator[int]:
    """The port of a chain's server."""
    with EmbeddedChain(None, now=lambda: 1_800_000_000) as served:
        async with serve(served, Listening(certificate=certificate, private_key=key)) as server:
            yield server.port


@pytest.fixture(params=[blobs, chain], ids=["blobs", "chain"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setattr(chain_server, "MAX_CONNECTIONS", PLACES)
    found: Serving = request.param
    return found


async def opened(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which nothing is said."""
    return await asyncio.open_connection("127.0.0.1", port)


async def answer(port: int, tls: ssl.SSLContext) -> bytes:
    """The first line of an answer to a request that both servers understand well enough to refuse."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return line


def run(server: Serving, folder: Path, check: Callable[[int, ssl.SSLContext], object]) -> None:
    authority, certificate, key = certificates(folder)

    async def main() -> None:
        async with asyncio.timeout(60), server(folder / "store", certificate, key) as port:
            await check(port, client_tls(authority))  # type: ignore[misc]

    asyncio.run(main())


def test_handshakes_count_as_connections(server: Serving, tmp_path: Path) -> None:
    async def check(port: int, tls: ssl.SSLContext) -> None:
        silent = [await opened(port) for _ in range(PLACES)]
        for _ in range(3 * PLACES):  # One too many is cut at once, not when its handshake is over.
            reader, writer = await opened(port)
            async with asyncio.timeout(connections.HANDSHAKE_S / 2):
                assert await reader.read(1) == b""
            writer.close()
        with pytest.raises(OSError):
            await answer(port, tls)
        silent[0][1].close()
        await silent[0][1].wait_closed()
        while True:  # Its place is free as soon as the server has seen that.
            try:
                assert await answer(port, tls) in REFUSALS
                break
            except OSError:
                await asyncio.sleep(0)
        for _, writer in silent[1:]:
            writer.close()

    run(server, tmp_path, check)


def test_a_handshake_that_does_not_end_gives_its_place_back(
    server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_S", 0.05)

    async def check(port: int, tls: ssl.SSLContext) -> None:
        silent = [await opened(port) for _ in range(PLACES)]
        silent[0][1].write(b"\x16\x03\x01")  # It begins one.
        silent[1][1].write(b"GET / HTTP/1.1\r\n\r\n")  # It speaks no TLS.
        for reader, writer in silent:
            try:
                while await reader.read(100):
                    pass
            except ConnectionResetError:
                pass
            writer.close()
        assert await answer(port, tls) in REFUSALS

    run(server, tmp_path, check)
