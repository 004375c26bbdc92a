"""anvil as a chain that can be told to take blocks back."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from anyio import Lock

from galaxylearning.chain.http_link import HttpLink
from galaxylearning.chain.transport import REQUEST_TIMEOUT_S, Transport, as_int
from galaxylearning.errors import LedgerUnreachable

ROOT = Path(__file__).parents[2]
GENESIS_S = 1_800_000_000
BLOCK_S = 2
KEPT_STATES = 2_000


@contextmanager
def running_anvil(*options: str) -> Iterator[str]:
    """A fresh anvil on a free port, mining each transaction at once; its URL.

    Raises:
        LedgerUnreachable: it is not installed, or ended before it listened.
    """
    found = sorted((ROOT / "contracts" / "node_modules").glob("**/bin/anvil"))
    if not found:
        raise LedgerUnreachable("anvil is missing: run 'npm install' in contracts/")
    command = [str(found[0]), "--port", "0", "--hardfork", "prague", "--timestamp", str(GENESIS_S)]
    # What does not fit its memory of states goes to disk, and does not always come back.
    command += ["--prune-history", str(KEPT_STATES), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101
            for line in process.stdout:
                if line.startswith("Listening on "):
                    # It goes on printing, and would stop once nobody reads that.
                    Thread(target=process.stdout.read, daemon=True).start()
                    yield "http://" + line.removeprefix("Listening on ").strip()
                    return
            raise LedgerUnreachable("anvil ended before it listened")
        finally:
            process.kill()


class Line:
    """A connection of one node. It waits while blocks are taken back: anvil does not do that in one step."""

    def __init__(self, url: str, lock: Lock) -> None:
        self._link, self._lock = HttpLink(url, REQUEST_TIMEOUT_S), lock

    async def make_request(self, method: str, params: Sequence[Any]) -> Any:
        """See ``HttpLink``."""
        async with self._lock:
            return await self._link.make_request(method, params)

    async def disconnect(self) -> None:
        """Close the connection."""
        await self._link.disconnect()


class Chain:
    """What only somebody who owns the chain can do to it. ``lock`` keeps others from it meanwhile."""

    def __init__(self, url: str) -> None:
        self.url, self.lock = url, Lock()
        self._transport = Transport(url)

    async def ask(self, method: str, *params: Any) -> Any:
        """Any JSON-RPC call."""
        return await self._transport.request(method, *params)

    async def height(self) -> int:
        """Number of the head."""
        return as_int(await self.ask("eth_blockNumber"))

    async def block_hash(self, number: int) -> str:
        """Hash of the block that has this number now."""
        return str((await self.ask("eth_getBlockByNumber", hex(number), False))["hash"])

    async def mine(self, blocks: int) -> None:
        """Blocks without transactions, ``BLOCK_S`` apart."""
        async with self.lock:
            await self.ask("anvil_mine", hex(blocks), hex(BLOCK_S))

    async def snapshot(self) -> str:
        """A state to go back to, once."""
        return str(await self.ask("evm_snapshot"))

    async def revert(self, snapshot: str) -> None:
        """Back to a snapshot."""
        if await self.ask("evm_revert", snapshot) is not True:
            raise LedgerUnreachable("anvil did not go back to its snapshot")

    async def transactions(self, depth: int) -> list[str]:
        """The raw transactions of the last ``depth`` blocks, in their order."""
        height = await self.height()
        found: list[str] = []
        for number in range(height - depth + 1, height + 1):
            block = await self.ask("eth_getBlockByNumber", hex(number), False)
            hashes = [] if block is None else block["transactions"]
            found += [await self.ask("eth_getRawTransactionByHash", one) for one in hashes]
        return [raw for raw in found if raw is not None]

    async def reorganise(self, depth: int, again: Sequence[tuple[str, int]] = ()) -> None:
        """Put new blocks in the place of the last ``depth``; ``again``: raw transactions, and in which.

        Whoever calls this while others use the chain holds the lock.
        """
        await self.ask("anvil_reorg", depth, [list(pair) for pair in again])

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()


@asynccontextmanager
async def open_chain(url: str) -> AsyncIterator[Chain]:
    """A chain, until the block ends."""
    chain = Chain(url)
    try:
        yield chain
    finally:
        await chain.close()
