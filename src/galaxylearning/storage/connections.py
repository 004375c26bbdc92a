"""A gate in front of an HTTP server: so many connections at once, and none that says nothing for long.

A connection that has not begun a request in time is cut; what happens within a request has limits of its
own. TLS handshakes have theirs, in the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 32\r\n"
    b'Connection: close\r\nRetry-After: 1\r\n\r\n{"error":"too many connections"}'
)


class ConnectionGate:
    """Counts connections and hands those it lets through to ``make_protocol``'s protocols."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        max_connections: int,
        max_per_address: int,
        idle_s: float,
    ) -> None:
        self._make_protocol = make_protocol
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._idle_s = idle_s
        self._open: dict[asyncio.Protocol, _GatedConnection] = {}
        self._per_address: Counter[str] = Counter()

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one connection, as ``loop.create_server`` wants it."""
        return _GatedConnection(self, self._make_protocol())

    def __len__(self) -> int:
        return len(self._open)

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
        self._timer: asyncio.TimerHandle | None = None
        self._is_in = False
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream server makes no others
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._is_in = self._gate._enter(self, self._address)
        if self._is_in:
            self.inner.connection_made(transport)
        else:
            transport.write(_BUSY)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if self._is_in:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._is_in else None

    def connection_lost(self, exc: Exception | None) -> None:
        self.disarm()
        if self._is_in:
            self._is_in = False
            self._gate._leave(self, self._address)
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._is_in:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if self._is_in:
            self.inner.resume_writing()

    def arm(self, seconds: float) -> None:
        """Cut the connection in ``seconds`` unless it begins a request."""
        self.disarm()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def disarm(self) -> None:
        """Leave the connection alone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
