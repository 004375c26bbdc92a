"""A gate in front of an HTTP server: so many connections at once, and none that says nothing for long.

A connection counts from the moment it is there, so TLS begins behind the gate: who never ends a handshake
takes one place, for a while. One that has not begun a request in time is cut; what happens within a request
has limits of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

HANDSHAKE_S: Final = 10.0
"""So long a TLS handshake may take."""

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 32\r\n"
    b'Connection: close\r\nRetry-After: 1\r\n\r\n{"error":"too many connections"}'
)


class ConnectionGate:
    """Counts connections and hands those it lets through to ``make_protocol``'s protocols.

    With ``tls`` they speak that; one too many is then cut without a word. Without ``idle_s`` the protocols
    see to silent ones themselves.
    """

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        max_connections: int,
        max_per_address: int,
        idle_s: float | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._make_protocol = make_protocol
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._idle_s = idle_s
        self.tls = tls
        self._open: dict[asyncio.Protocol, _GatedConnection] = {}
        self._per_address: Counter[str] = Counter()

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one connection, as ``loop.create_server`` wants it."""
        return _GatedConnection(self, self._make_protocol())

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Cut what is still there."""
        for connection in list(self._open.values()):
            connection.cut()

    @contextmanager
    def request(self, protocol: asyncio.Protocol) -> Iterator[None]:
        """The time in which a connection is busy with a request and may be silent."""
        connection = self._open.get(protocol)
        if connection is not None:
            connection.disarm()
        try:
            yield
        finally:
            if connection is not None and protocol in self._open:
                connection.arm(self._idle_s)

    def _enter(self, connection: _GatedConnection, address: str) -> bool:
        if len(self._open) >= self._max_connections or self._per_address[address] >= self._max_per_address:
            return False
        self._open[connection.inner] = connection
        self._per_address[address] += 1
        connection.arm(self._idle_s)
        return True

    def _leave(self, connection: _GatedConnection, address: str) -> None:
        if self._open.pop(connection.inner, None) is not None:
            self._per_address[address] -= 1
            if not self._per_address[address]:
                del self._per_address[address]


class _GatedConnection(asyncio.Protocol):
    """Passes everything on to ``inner`` once the gate has let the connection in."""

    def __init__(self, gate: ConnectionGate, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self._gate = gate
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_in = self._is_begun = self._is_ended = False
        self._early = bytearray()
        """What came along with the end of the handshake, before the protocol was told of the connection."""
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream server makes no others
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._is_in = self._gate._enter(self, self._address)
        if self._gate.tls is not None:
            if self._is_in:
                transport.pause_reading()  # The first bytes are the handshake's.
                self._handshake = asyncio.create_task(self._secure(transport, self._gate.tls))
            else:
                transport.abort()
        elif self._is_in:
            self._begin(transport)
        else:
            transport.write(_BUSY)
            transport.close()

    async def _secure(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError:
            secured = None
        if secured is None:  # The other side left, was too slow, or speaks no TLS of ours.
            transport.abort()
            self.connection_lost(None)
        elif self._is_in:
            self._begin(secured)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._transport, self._is_begun = transport, True
        self.inner.connection_made(transport)
        if self._early:
            self.inner.data_received(bytes(self._early))
            self._early.clear()
        if self._is_ended:
            self.inner.eof_received()

    def data_received(self, data: bytes) -> None:
        if self._is_begun:
            self.inner.data_received(data)
        elif self._is_in:
            self._early += data

    def eof_received(self) -> bool | None:
        self._is_ended = True
        return self.inner.eof_received() if self._is_begun else None

    def connection_lost(self, exc: Exception | None) -> None:
        self.disarm()
        if self._is_in:
            self._is_in = False
            self._gate._leave(self, self._address)
        if self._is_begun:
            self._is_begun = False
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._is_begun:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if self._is_begun:
            self.inner.resume_writing()

    def arm(self, seconds: float | None) -> None:
        """Cut the connection in ``seconds`` unless it begins a request."""
        self.disarm()
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.cut)

    def cut(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def disarm(self) -> None:
        """Leave the connection alone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
