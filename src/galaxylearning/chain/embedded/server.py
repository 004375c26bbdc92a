"""JSON-RPC over HTTP, for loopback unless TLS and access keys protect it.

The chain has an unlocked account and a clock anyone may turn, so requests that a web page sends (they carry
an ``Origin``) are refused. Whoever has an access key writes it into the URL, ``https://host:port/{key}``, as
with hosted nodes: every client can do that.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from galaxylearning.chain import bounded_json
from galaxylearning.chain.embedded.chain import EmbeddedChain
from galaxylearning.chain.embedded.rpc_error import INVALID_REQUEST, PARSE_ERROR, RpcError
from galaxylearning.connections import ConnectionGate
from galaxylearning.errors import ConfigRefused, GalaxyError, LedgerUnreachable
from galaxylearning.listening import Listening

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_HEADER_BYTES = 16 * 1024
MAX_BATCH = 1_000
MAX_CONNECTIONS = 256
_READ_TIMEOUT_S = 30.0
_IDLE_TIMEOUT_S = 120.0
_ACCESS_KEY = re.compile(r"[A-Za-z0-9_-]{32,128}")
HOW_TO_GIVE_KEYS = "--access-keys FILE, one key a line"

_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; clients connect to ``url``."""

    url: str
    port: int


class _HttpRefused(Exception):  # noqa: N818 - like its neighbours in errors.py
    def __init__(self, status: int, reason: str, *, code: int = INVALID_REQUEST) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


@asynccontextmanager
async def serve(
    chain: EmbeddedChain,
    listening: Listening | None = None,
    *,
    access_keys: Sequence[str] = (),
) -> AsyncIterator[Server]:
    """Serve ``chain`` while the block runs, on a free port of localhost where nothing else is said.

    With ``access_keys`` a request's path must be one of them. The URL given has none in it.

    Raises:
        ConfigRefused: it would be open to the world without TLS and keys, or a key is too short.
        LedgerUnreachable: the port cannot be had.
    """
    listening = replace(listening or Listening(), has_keys=bool(access_keys))
    listening.check(keys=HOW_TO_GIVE_KEYS)
    for key in access_keys:
        if _ACCESS_KEY.fullmatch(key) is None:
            raise ConfigRefused(
                "must have 32 to 128 letters, digits, '-' or '_', a key a line", where="access keys"
            )
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        connections.add(task)
        try:
            await _converse(chain, reader, writer, access_keys)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The client left, or the server is closing: there is nobody to tell.
        finally:
            connections.discard(task)
            writer.close()

    gate = ConnectionGate(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=MAX_HEADER_BYTES), connected),
        max_connections=MAX_CONNECTIONS,
        max_per_address=MAX_CONNECTIONS,
        tls=listening.tls(),
    )
    try:
        listener = await asyncio.get_running_loop().create_server(gate, listening.host, listening.port)
    except OSError as error:
        raise LedgerUnreachable(listening.refusal(error)) from error
    try:
        port = int(listener.sockets[0].getsockname()[1])
        yield Server(listening.url(port), port)
    finally:
        listener.close()
        for task in list(connections):
            task.cancel()
        gate.close()
        await asyncio.gather(*connections, return_exceptions=True)
        await listener.wait_closed()


async def _converse(
    chain: EmbeddedChain,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    access_keys: Sequence[str],
) -> None:
    is_open = True
    while is_open:
        try:
            is_open, body = await _read_request(reader, writer, access_keys)
        except _HttpRefused as refused:
            await _respond(writer, refused.status, _error(None, RpcError(refused.code, str(refused))), False)
            return
        if body is None:
            return
        answer = answer_body(chain, body)
        await _respond(writer, 204 if answer is None else 200, answer, is_open)


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, access_keys: Sequence[str]
) -> tuple[bool, bytes | None]:
    """Whether the connection stays open, and a request's body; None at the end of the connection."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _IDLE_TIMEOUT_S)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise _HttpRefused(400, "incomplete request") from error
        return False, None
    except asyncio.LimitOverrunError as error:
        raise _HttpRefused(413, f"headers are over {MAX_HEADER_BYTES} bytes") from error
    except TimeoutError:
        return False, None
    request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition(":")
        if not separator or name.strip().lower() in headers:
            raise _HttpRefused(400, "malformed or repeated header")
        headers[name.strip().lower()] = value.strip()
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _HttpRefused(400, "not an HTTP/1 request")
    if parts[0] != "POST":
        raise _HttpRefused(405, "only POST is served")
    if access_keys and not _is_known(parts[1], access_keys):
        raise _HttpRefused(401, "an access key is required, as the path of the URL")
    if "origin" in headers:
        raise _HttpRefused(403, "requests from web pages are refused")
    if "transfer-encoding" in headers or "content-length" not in headers:
        raise _HttpRefused(411, "a Content-Length is required")
    length = headers["content-length"]
    if not (length.isascii() and length.isdigit() and len(length) < 16):
        raise _HttpRefused(400, "Content-Length must be a number")
    if int(length) > MAX_BODY_BYTES:
        raise _HttpRefused(413, f"body is over {MAX_BODY_BYTES} bytes")
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    try:
        body = await asyncio.wait_for(reader.readexactly(int(length)), _READ_TIMEOUT_S)
    except TimeoutError as error:
        raise _HttpRefused(408, f"body did not arrive within {_READ_TIMEOUT_S:.0f} s") from error
    is_open = headers.get("connection", "").lower() != "close" and parts[2] == "HTTP/1.1"
    return is_open, body


def _is_known(path: str, access_keys: Sequence[str]) -> bool:
    """Whether a path is one of the keys; how long that takes says nothing about them."""
    given = path.removeprefix("/").encode("latin-1")
    return sum(hmac.compare_digest(given, key.encode()) for key in access_keys) > 0


async def _respond(writer: asyncio.StreamWriter, status: int, answer: Any, is_open: bool) -> None:
    body = b"" if answer is None else json.dumps(answer, separators=(",", ":")).encode()
    connection = "keep-alive" if is_open else "close"
    writer.write(
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {connection}\r\n\r\n".encode()
        + body
    )
    await asyncio.wait_for(writer.drain(), _READ_TIMEOUT_S)


def answer_body(chain: EmbeddedChain, body: bytes) -> Any:
    """The response to a request body, single or batch; None where nothing is to be answered."""
    try:
        request = bounded_json.loads(body)
    except ValueError:
        return _error(None, RpcError(PARSE_ERROR, "body is not JSON"))
    if not isinstance(request, list):
        return _answer_one(chain, request)
    if not 1 <= len(request) <= MAX_BATCH:
        return _error(None, RpcError(INVALID_REQUEST, f"a batch has 1 to {MAX_BATCH} requests"))
    answers = [answer for item in request if (answer := _answer_one(chain, item)) is not None]
    return answers or None


def _answer_one(chain: EmbeddedChain, request: Any) -> dict[str, Any] | None:
    if not isinstance(request, Mapping):
        return _error(None, RpcError(INVALID_REQUEST, "a request is an object"))
    identifier = request.get("id")
    if identifier is not None and (
        isinstance(identifier, bool)
        or not isinstance(identifier, int | float | str)
        or (isinstance(identifier, float) and not math.isfinite(identifier))
    ):
        return _error(
            None, RpcError(INVALID_REQUEST, "must be a string, a finite number or null", where="id")
        )
    method, params = request.get("method"), request.get("params", [])
    if request.get("jsonrpc") != "2.0" or not isinstance(method, str):
        wrong = RpcError(INVALID_REQUEST, 'a request has "jsonrpc": "2.0" and a "method"')
        return _error(identifier, wrong)
    try:
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": identifier, "result": chain.request(method, params)}
    except RpcError as error:
        answer = _error(identifier, error)
    except GalaxyError as error:
        answer = _error(identifier, RpcError(-32603, str(error)))
    return answer if "id" in request else None


def _error(identifier: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "error": error.as_json()}
