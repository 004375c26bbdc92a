"""A chain with contracts and a few events, and nodes that answer for it, truly or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from chain_nodes import key
from galaxylearning.chain.agreement import Following
from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import EvmLedger, connect
from galaxylearning.crypto.digest import keccak
from galaxylearning.ports import Call, Event
from lying_node import LyingNode, lying_node

NOW = 1_800_000_000
FINALITY_BLOCKS = 3


@dataclass
class Town:
    """A chain with contracts, and nodes that answer for it."""

    chain: EmbeddedChain
    deployment: Deployment
    nodes: list[LyingNode]
    stack: AsyncExitStack
    following: Following = Following(finality_blocks=FINALITY_BLOCKS)  # noqa: RUF009 - it is frozen

    async def ledger(self, *nodes: LyingNode, timeout_s: float = 5.0, **options: Any) -> EvmLedger:
        """A connection to these nodes (all, where none is named)."""
        found = await connect(
            [node.url for node in nodes or self.nodes],
            self.deployment,
            request_timeout_s=timeout_s,
            following=replace(self.following, **options.pop("following", {})),
            **options,
        )
        self.stack.push_async_callback(found.close)
        return found

    async def happen(self, *names: str) -> None:
        """An event for each name, in a block of its own."""
        ledger = await connect(self.chain, self.deployment)
        for name in names:
            await fund(self.chain, key(name).address, 10**18)
            await ledger.submit(Call("registry", "registerEvaluator", (keccak(name.encode()),)), key(name))

    def mine(self, blocks: int) -> None:
        """Empty blocks."""
        for _ in range(blocks):
            self.chain.request("evm_mine", [])

    async def truth(self) -> list[Event]:
        """All events there are."""
        return list((await (await connect(self.chain, self.deployment)).follow(0)).final)


@asynccontextmanager
async def town(nodes: int = 1) -> AsyncIterator[Town]:
    """Two events in the past, both final."""
    async with AsyncExitStack() as stack:
        chain = stack.enter_context(EmbeddedChain(None, now=lambda: NOW))
        await fund(chain, key("deployer").address, 10**19)
        deployment = await deploy(chain, key("deployer"), unbonding_s=1)
        made = [await stack.enter_async_context(lying_node(chain)) for _ in range(nodes)]
        found = Town(chain, deployment, made, stack)
        await found.happen("alice", "bob")
        found.mine(FINALITY_BLOCKS)
        yield found


def names(events: Sequence[Event]) -> list[str]:
    """Whose events these are."""
    known = {key(name).address: name for name in ("alice", "bob", "carol", "dan")}
    return [known[event.arguments["evaluator"]] for event in events]
