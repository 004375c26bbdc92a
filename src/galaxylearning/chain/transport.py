"""Asking a node: one request at a time over any web3.py provider or an embedded chain, its errors as ours."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from eth_utils.address import to_checksum_address

from galaxylearning.chain.abi_codec import describe_revert
from galaxylearning.errors import (
    AnswerRefused,
    ConfigRefused,
    GalaxyError,
    LedgerError,
    LedgerUnreachable,
    TransactionReverted,
)
from galaxylearning.reaching import os_reason, shown_url
from galaxylearning.units import Address

REQUEST_TIMEOUT_S = 30.0
PATIENCE_S = 60.0
_REVERT_CODE = 3
_LIMIT_CODE = -32005
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 15.0
_MOVED = ("header not found", "unknown block", "missing trie node", "blockoutofrange", "out of range")
"""What nodes say of a block that a reorganisation took, or that one of several behind a URL has not got."""
_TOO_MUCH = ("block range", "results", "blocks", "logs", "too large")
"""What an error -32005 speaks of that asks for a smaller question and not for patience."""


class SupportsMakeRequest(Protocol):
    """An asynchronous web3.py provider, or anything that answers like one."""

    async def make_request(self, method: Any, params: Any) -> Any: ...


class SupportsRequest(Protocol):
    """An embedded chain: answers at once, raising ``LedgerError`` with ``code`` and ``data``."""

    def request(self, method: str, params: Any) -> Any: ...


class HasProvider(Protocol):
    """An ``AsyncWeb3``."""

    @property
    def provider(self) -> Any: ...


Node: TypeAlias = str | SupportsMakeRequest | SupportsRequest | HasProvider
"""What a chain can be reached by: a URL, a provider, an ``AsyncWeb3``, an embedded chain."""


class NodeRefused(LedgerError):  # noqa: N818 - named like its parents
    """The node answered with an error that is not a revert; ``code`` is the JSON-RPC error's."""

    def __init__(self, message: str, *, code: int, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.code = code


class RateLimited(LedgerUnreachable):
    """The node asks for patience; ``wait_s`` is how long, where it says."""

    def __init__(self, message: str, *, wait_s: float | None = None, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.wait_s = wait_s


class Transport:
    """Sends requests. Nothing but errors of ``galaxylearning.errors`` comes out of it.

    Args:
        node: a URL (http, https, ws, wss), an asynchronous web3.py provider of requests and answers, an
            ``AsyncWeb3`` over one, or an embedded chain.
        timeout_s: for one answer.
        patience_s: so long in all a request is held back and asked again while the node asks for patience.

    Raises:
        ConfigRefused: none of these.
    """

    def __init__(
        self, node: Node, *, timeout_s: float = REQUEST_TIMEOUT_S, patience_s: float = PATIENCE_S
    ) -> None:
        self.name = shown_url(node) if isinstance(node, str) else type(node).__name__
        """What the endpoint is called in messages: a URL without its secrets."""
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._is_ours = isinstance(node, str)
        self._embedded: SupportsRequest | None = None
        self._provider: Any = None
        if isinstance(node, str):
            self._provider = _provider_of_url(node, timeout_s)
        elif hasattr(node, "make_request"):
            self._provider = node
        elif hasattr(node, "provider"):
            self._provider = node.provider
        elif hasattr(node, "request"):
            self._embedded = node
        else:
            raise ConfigRefused(f"{type(node).__name__} is neither a URL nor a provider", where="chain")
        if getattr(self._provider, "has_persistent_connection", False):
            raise ConfigRefused(
                "persistent providers of web3.py are not supported; give the URL", where="chain"
            )

    @property
    def is_embedded(self) -> bool:
        """Whether the chain lives in this process: then no block is ever taken back, and nobody lies."""
        return self._embedded is not None

    async def request(self, method: str, *params: Any) -> Any:
        """The result of a JSON-RPC call, as JSON. A node that asks for patience is asked again later.

        Raises:
            TransactionReverted: the contract refused.
            NodeRefused: the node refused.
            AnswerRefused: what answered is no node, or its answer was cut off or too long.
            LedgerUnreachable: nothing answered in time, or the node's rate limit outlasts the patience.
        """
        if self._embedded is not None:
            return self._ask_embedded(method, list(params))
        waited_s, pause_s = 0.0, _FIRST_WAIT_S
        while True:
            try:
                return await self._ask(method, params)
            except RateLimited as limited:
                wait_s = pause_s if limited.wait_s is None else limited.wait_s
                waited_s, pause_s = waited_s + wait_s, min(2 * pause_s, _LONGEST_WAIT_S)
                if waited_s > self._patience_s:
                    raise LedgerUnreachable(
                        f"{self.name} limits our rate; waited {self._patience_s:g} s", where=method
                    ) from limited
                await asyncio.sleep(wait_s)

    async def _ask(self, method: str, params: tuple[Any, ...]) -> Any:
        where = f"{method} at {self.name}"
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._provider.make_request(method, list(params))
        except TimeoutError as error:
            raise LedgerUnreachable(f"no answer within {self._timeout_s:g} s", where=where) from error
        except GalaxyError:
            raise
        except Exception as error:  # whatever a provider's transport raises ends here
            raise _mapped(error, where) from error
        if not isinstance(response, Mapping) or not ("result" in response or "error" in response):
            raise AnswerRefused("the answer is not a JSON-RPC response", where=where)
        if response.get("error") is not None:
            raise error_of(response["error"], where)
        return response.get("result")

    def _ask_embedded(self, method: str, params: list[Any]) -> Any:
        assert self._embedded is not None  # noqa: S101
        try:
            return self._embedded.request(method, params)
        except LedgerError as error:
            if not hasattr(error, "code"):
                raise
            shown = {"code": error.code, "message": str(error), "data": getattr(error, "data", None)}
            raise error_of(shown, method) from error

    async def close(self) -> None:
        """Close the connection where this object opened it."""
        if self._is_ours and self._provider is not None:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._provider.disconnect()
            except TimeoutError:
                return


def _provider_of_url(url: str, timeout_s: float) -> Any:
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in ("http", "https", "ws", "wss"):
        raise ConfigRefused("must begin with http://, https://, ws:// or wss://", where="chain")
    if scheme in ("ws", "wss"):
        from galaxylearning.chain.websocket import WebSocketLink

        return WebSocketLink(url)
    from galaxylearning.chain.http_link import HttpLink  # slow to import; an embedded chain can do without

    return HttpLink(url, timeout_s)


def _mapped(error: Exception, where: str) -> LedgerError:
    """What a provider raised, as ours. A web3 error that carries a JSON-RPC error object is that error."""
    response = getattr(error, "rpc_response", None)
    if isinstance(response, Mapping) and response.get("error") is not None:
        return error_of(response["error"], where)
    if isinstance(error, ValueError | TypeError) and not isinstance(error, OSError):
        return AnswerRefused(f"what answered is no JSON-RPC node ({type(error).__name__})", where=where)
    return LedgerUnreachable(f"the node cannot be reached: {os_reason(error)}", where=where)


def error_of(error: Any, method: str) -> LedgerError:
    """A JSON-RPC error object as ours: a revert where it is one, else the node's refusal."""
    if not isinstance(error, Mapping):
        return NodeRefused(str(error)[:200], code=0, where=method)
    message = str(error.get("message", "no message"))[:400]
    code = error.get("code")
    data = error.get("data")
    if isinstance(data, Mapping):
        data = data.get("data")
    revert = _revert_data(data)
    if code == _REVERT_CODE or (revert and "revert" in message.lower()):
        reason, sentence = describe_revert(revert or b"")
        return TransactionReverted(f"the contract refused: {sentence}", reason=reason)
    if any(words in message.lower() for words in _MOVED):
        return LedgerUnreachable(f"the chain moved while it was read: {message}", where=method)
    if code == _LIMIT_CODE and not any(words in message.lower() for words in _TOO_MUCH):
        return RateLimited(message, where=method)
    return NodeRefused(message, code=code if isinstance(code, int) else 0, where=method)


def as_int(value: Any) -> int:
    """A node's QUANTITY.

    Raises:
        LedgerError: it is not one.
    """
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise LedgerError(f"the node answered {str(value)[:40]!r} where a 0x-hexadecimal number belongs")


def as_bytes(value: Any) -> bytes:
    """A node's DATA.

    Raises:
        LedgerError: it is not that.
    """
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise LedgerError(f"the node answered {str(value)[:40]!r} where 0x-hexadecimal bytes belong")


def as_address(value: Any) -> Address:
    """A node's address, checksummed.

    Raises:
        LedgerError: it is not one.
    """
    decoded = as_bytes(value)
    if len(decoded) != 20:
        raise LedgerError(f"the node answered {len(decoded)} bytes where an address of 20 belongs")
    return Address(to_checksum_address(decoded))


def as_objects(value: Any) -> list[Mapping[str, Any]]:
    """A node's list of logs.

    Raises:
        LedgerError: it is not a list of objects.
    """
    if not isinstance(value, list):
        raise LedgerError(f"the node answered {str(value)[:40]!r} where a list belongs")
    return [as_object(item) for item in value]


def as_object(value: Any) -> Mapping[str, Any]:
    """A node's block, receipt or log; a field that is not there reads as None.

    Raises:
        LedgerError: it is not an object.
    """
    if isinstance(value, Mapping):
        return defaultdict(lambda: None, value)
    raise LedgerError(f"the node answered {str(value)[:40]!r} where an object belongs")


def _revert_data(data: Any) -> bytes | None:
    if not isinstance(data, str) or not data.startswith("0x"):
        return None
    try:
        return bytes.fromhex(data[2:])
    except ValueError:
        return None
