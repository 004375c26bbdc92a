"""An embedded chain behind a bad line: single answers are lost, late or false."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from galaxylearning.chain.embedded import EmbeddedChain, RpcError
from galaxylearning.chain.signer import KeySigner

NOW = 1_800_000_000
SIGNER = KeySigner(b"\7" * 32)
TO = "0x" + "11" * 20


class Flaky:
    """An embedded chain behind a line on which single answers are replaced, like a web3.py provider."""

    def __init__(self) -> None:
        self.chain = EmbeddedChain(None, now=lambda: NOW)
        self.chain.request("anvil_setBalance", [SIGNER.address, hex(10**20)])
        self.asked: list[str] = []
        self.tricks: dict[str, list[Callable[[list[Any]], Any]]] = {}

    def trick(self, method: str, *answers: Callable[[list[Any]], Any]) -> None:
        """Answer the next calls of a method in these ways, and later ones properly."""
        self.tricks.setdefault(method, []).extend(answers)

    def properly(self, method: str, params: list[Any]) -> dict[str, Any]:
        """The chain's own answer."""
        try:
            return {"jsonrpc": "2.0", "id": 1, "result": self.chain.request(method, params)}
        except RpcError as error:
            return {"jsonrpc": "2.0", "id": 1, "error": error.as_json()}

    async def make_request(self, method: str, params: list[Any]) -> Any:
        """One request."""
        self.asked.append(method)
        waiting = self.tricks.get(method)
        return waiting.pop(0)(params) if waiting else self.properly(method, params)


def nothing(_: list[Any]) -> Any:
    """A null result."""
    return {"result": None}


def broken(_: list[Any]) -> Any:
    """The line is dead."""
    raise OSError("connection reset")


def nonce_of(node: Flaky) -> int:
    """How many transactions of the signer were mined."""
    return int(node.chain.request("eth_getTransactionCount", [SIGNER.address]), 16)
