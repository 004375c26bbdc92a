"""Chains under test, embedded and anvil: asked in JSON-RPC and through the ledger.

anvil comes with the contracts' development tools (`npm ci` in contracts/); without it its tests fail.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import pytest
from eth_utils.address import to_checksum_address

from galaxylearning.chain.embedded import EmbeddedChain, RpcError
from galaxylearning.chain.evm import EvmLedger, KeySigner, connect, deploy, fund
from galaxylearning.crypto.digest import keccak

REPOSITORY = Path(__file__).resolve().parents[2]
GENESIS_TIME = 1_800_000_000
ETHER = 10**18
GAS_MONEY_WEI = 100 * ETHER
Result = TypeVar("Result")


def init_code(runtime: str) -> str:
    """Creation code for runtime code of less than 256 bytes."""
    return "0x60" + f"{len(runtime) // 2:02x}" + "5f8160095f39f3" + runtime


def key(name: str) -> KeySigner:
    """The same account for the same name, always."""
    return KeySigner(keccak(name.encode()))


@dataclass
class Node:
    """A chain under test, spoken to in JSON-RPC and through the ledger."""

    name: str
    target: Any
    ask: Callable[[str, list[Any]], Any]
    time_s: int = GENESIS_TIME + 1_000

    def rpc(self, method: str, *params: Any) -> Any:
        """A result; raises ``Answered`` for an error."""
        return self.ask(method, list(params))

    def refused(self, method: str, *params: Any) -> Answered:
        """The error of a request that must fail."""
        with pytest.raises(Answered) as caught:
            self.rpc(method, *params)
        return caught.value

    def tick(self, seconds: int = 1) -> None:
        """Let the next block have a timestamp this much later."""
        self.time_s += seconds
        self.rpc("evm_setNextBlockTimestamp", self.time_s)

    @property
    def faucet(self) -> str:
        """The unlocked account."""
        return str(self.rpc("eth_accounts")[0])

    def create(self, runtime: str) -> str:
        """Deploy runtime code; its address."""
        sent = self.rpc("eth_sendTransaction", {"from": self.faucet, "data": init_code(runtime)})
        return str(self.receipt(sent)["contractAddress"])

    def send(self, raw: str) -> Any:
        """Send a raw transaction; its receipt."""
        return self.receipt(self.rpc("eth_sendRawTransaction", raw))

    def receipt(self, transaction_hash: str) -> Any:
        """A receipt. anvil may answer a moment before it has one."""
        deadline = monotonic() + 10
        while (found := self.rpc("eth_getTransactionReceipt", transaction_hash)) is None:
            assert monotonic() < deadline, "no receipt"
        return found


class Answered(Exception):  # noqa: N818
    """A JSON-RPC error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.code = error["code"]
        self.message = error["message"]
        self.data = error.get("data")


def find_anvil() -> Path:
    """anvil's binary, from npm's package for this platform."""
    found = sorted((REPOSITORY / "contracts/node_modules").glob("**/bin/anvil"))
    if not found:
        pytest.fail("anvil is missing: run `npm ci` in contracts/ (npm package @foundry-rs/anvil)")
    return found[0]


@pytest.fixture(scope="session")
def start_anvil() -> Iterator[Callable[[], str]]:
    """Starts anvil on a free port; its URL."""
    running: list[subprocess.Popen[str]] = []

    def start() -> str:
        command = [str(find_anvil()), "--port", "0", "--hardfork", "prague", "--timestamp", str(GENESIS_TIME)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Listening on "):
                return "http://" + line.removeprefix("Listening on ").strip()
        pytest.fail("anvil ended before it listened")

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ask_url(url: str) -> Callable[[str, list[Any]], Any]:
    """JSON-RPC over HTTP by the standard library, so that no client of ours stands in between."""

    def ask(method: str, params: list[Any]) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            answer = json.load(response)
        if "error" in answer:
            raise Answered(answer["error"])
        return answer["result"]

    return ask


def ask_embedded(chain: EmbeddedChain) -> Callable[[str, list[Any]], Any]:
    """The same of an embedded chain; every answer must survive JSON."""

    def ask(method: str, params: list[Any]) -> Any:
        try:
            return json.loads(json.dumps(chain.request(method, params)))
        except RpcError as error:
            raise Answered(error.as_json()) from error

    return ask


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Node]:
    """The embedded chain, in a file."""
    with EmbeddedChain(tmp_path / "chain.db", now=lambda: GENESIS_TIME) as chain:
        yield Node("embedded", chain, ask_embedded(chain))


@pytest.fixture
def anvil(start_anvil: Callable[[], str]) -> Node:
    """A fresh anvil."""
    url = start_anvil()
    return Node("anvil", url, ask_url(url))


@pytest.fixture(params=["embedded", "anvil"])
def node(request: pytest.FixtureRequest) -> Node:
    """Either of them."""
    chosen: Node = request.getfixturevalue(request.param)
    return chosen


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, in bounded time."""

    async def bounded() -> Result:
        async with asyncio.timeout(120):
            return await main

    return asyncio.run(bounded())


@asynccontextmanager
async def ledger_on(node: Node, *names: str) -> AsyncIterator[EvmLedger]:
    """Fresh contracts on a node, and these accounts with gas money."""
    for name in ("deployer", *names):
        await fund(node.target, key(name).address, GAS_MONEY_WEI)
    deployment = await deploy(node.target, key("deployer"), unbonding_s=60)
    ledger = await connect(node.target, deployment)
    try:
        yield ledger
    finally:
        await ledger.close()


def signed(node: Node, signer: KeySigner, **fields: Any) -> str:
    """A raw transaction with sensible fields where none are given."""
    nonce = int(node.rpc("eth_getTransactionCount", signer.address, "latest"), 16)
    complete = {
        "type": 2, "chainId": 31337, "nonce": nonce, "gas": 100_000, "maxFeePerGas": 3 * 10**9,
        "maxPriorityFeePerGas": 10**9, "value": 0, "to": node.faucet, "data": "0x", **fields,
    }  # fmt: skip
    if not complete["to"]:
        del complete["to"]
    if "to" in complete:
        complete["to"] = to_checksum_address(complete["to"])
    return "0x" + signer.sign_transaction(complete).hex()


def funded(node: Node, name: str) -> KeySigner:
    """An account with gas money."""
    signer = key(name)
    node.rpc("anvil_setBalance", signer.address, hex(GAS_MONEY_WEI))
    return signer
