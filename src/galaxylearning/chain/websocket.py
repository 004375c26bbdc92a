"""JSON-RPC over one WebSocket: answers matched to requests by number, opened again when it broke.

web3.py's own WebSocket provider polls in a busy loop, and one revert in an answer ends its listener, so it
 serves neither an evaluator that runs for weeks nor a contract that may refuse.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import count
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from galaxylearning.chain import bounded_json

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class WebSocketLink:
    """Answers like a web3.py provider. Errors of the socket come out as ``OSError``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ids = count(1)
        self._opening = asyncio.Lock()
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def make_request(self, method: str, params: Sequence[Any]) -> Any:
        """Send one request and wait for its response object.

        Raises:
            OSError: the socket could not be opened, or broke before the answer came.
        """
        socket = await self._open()
        number = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
        try:
            await socket.send(json.dumps(body))
            return await answer
        except ConnectionClosed as error:
            raise ConnectionError("the WebSocket was closed") from error
        finally:
            self._waiting.pop(number, None)

    async def _open(self) -> ClientConnection:
        async with self._opening:
            if self._socket is None or self._reader is None or self._reader.done():
                try:
                    self._socket = await connect(self._url, max_size=MAX_MESSAGE_BYTES)
                except WebSocketException as error:
                    raise ConnectionError("no WebSocket there") from error
                self._reader = asyncio.create_task(self._read(self._socket))
            return self._socket

    async def _read(self, socket: ClientConnection) -> None:
        """Hand each answer to whoever waits for it, until the socket closes."""
        try:
            async for message in socket:
                try:
                    answer = bounded_json.loads(message)
                except ValueError:
                    continue  # Nobody asked for it, whatever it is; what was asked for times out.
                number = answer.get("id") if isinstance(answer, dict) else None
                waiting = self._waiting.get(number) if isinstance(number, int) else None
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except ConnectionClosed:
            return
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError("the WebSocket was closed"))

    async def disconnect(self) -> None:
        """Close the socket and end its reader."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await self._reader
        self._socket = self._reader = None
