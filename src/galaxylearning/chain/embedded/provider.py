"""The embedded chain as a provider for web3.py."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from galaxylearning.chain.bounded_json import recursion_limit_kept
from galaxylearning.chain.embedded.chain import EmbeddedChain
from galaxylearning.chain.embedded.rpc_error import RpcError

with recursion_limit_kept():
    from web3.providers.async_base import AsyncBaseProvider
    from web3.types import RPCEndpoint, RPCResponse

MAX_DEPTH = 16


class EmbeddedProvider(AsyncBaseProvider):
    """Hands requests straight to an ``EmbeddedChain``.

    A request runs to its end before anything else in the event loop does, so that runs are reproducible.
    """

    def __init__(self, chain: EmbeddedChain) -> None:
        super().__init__()
        self._chain = chain
        self._ids = count(1)

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Answer one request as a JSON-RPC response object."""
        response: dict[str, Any] = {"jsonrpc": "2.0", "id": next(self._ids)}
        try:
            response["result"] = self._chain.request(method, plain_json(params))
        except RpcError as error:
            response["error"] = error.as_json()
        return response  # type: ignore[return-value]

    async def make_batch_request(self, requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse]:
        """Answer requests one after the other."""
        return [await self.make_request(method, params) for method, params in requests]

    async def is_connected(self, show_traceback: bool = False) -> bool:  # noqa: ARG002
        """The chain lives in this process."""
        return True


def plain_json(value: Any, depth: int = 0) -> Any:
    """What web3.py passes (tuples, bytes, attribute dicts) as plain JSON.

    Raises:
        ValueError: nested more than 16 deep.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"parameters are nested more than {MAX_DEPTH} deep")
    if isinstance(value, bytes | bytearray):
        return "0x" + bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(key): plain_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, depth + 1) for item in value]
    return value
