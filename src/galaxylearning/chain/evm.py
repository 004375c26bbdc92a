"""The ledger on an EVM chain: any node web3.py can reach, or an embedded chain."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.agreement import Following
from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.endpoints import Endpoints
from galaxylearning.chain.follower import Follower
from galaxylearning.chain.logs import CONTRACTS, WATCHED, LogReader, raw_log
from galaxylearning.chain.signer import KeySigner
from galaxylearning.chain.transactions import RECEIPT_TIMEOUT_S, Fees, Sender
from galaxylearning.chain.transport import (
    PATIENCE_S,
    REQUEST_TIMEOUT_S,
    Node,
    as_address,
    as_bytes,
    as_int,
    as_object,
    as_objects,
)
from galaxylearning.errors import ConfigRefused, FinalityBroken, LedgerError, LedgerUnreachable
from galaxylearning.ports import Block, Call, ChainLog, Contract, Event, Outbox, Receipt, Signer
from galaxylearning.units import Address

__all__ = ["Deployment", "EvmLedger", "Following", "KeySigner", "connect", "deploy", "fund"]

LOOK_EVERY_S = 1.0
EMBEDDED_SPAN_BLOCKS = 512
"""So many blocks of a chain in this process are read at a time."""
KEPT_EVENTS = 20_000
"""At least so many final events are held for whoever follows, at most twice as many; who begins later has the
chain read anew."""


async def connect(
    url_or_provider: Node | Sequence[Node],
    deployment: Deployment,
    *,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    receipt_timeout_s: float = RECEIPT_TIMEOUT_S,
    patience_s: float = PATIENCE_S,
    following: Following | None = None,
    outbox: Outbox | None = None,
    fees: Fees | None = None,
) -> EvmLedger:
    """A ledger over a node, once the node turned out to be the chain the deployment is on.

    What an earlier process left unfinished in ``outbox`` is taken up before anything else is asked.

    Args:
        url_or_provider: http(s):// or ws(s):// URL, a web3.py provider, an ``AsyncWeb3``, or an
            ``EmbeddedChain``; or several of them, the first of which is asked as long as it answers.
        request_timeout_s: for one answer.
        receipt_timeout_s: for a transaction to be mined.
        patience_s: so long in all a request waits for a node that limits our rate.
        following: what counts as final, and what is checked.
        outbox: where transactions are written down before they are sent; without it they are forgotten with
            the process.
        fees: what may be paid for gas.

    Raises:
        ConfigRefused: wrong kind of URL, another chain, or no contract at one of the addresses.
        LedgerUnreachable: no answer in time.
    """
    nodes: list[Any] = [url_or_provider]
    if isinstance(url_or_provider, list | tuple):
        nodes = list(url_or_provider)
    endpoints = Endpoints(nodes, timeout_s=request_timeout_s, patience_s=patience_s)
    try:
        await _check_chain_ids(endpoints, deployment)
        for contract in CONTRACTS:
            address = deployment.address_of(contract)
            if await endpoints.request("eth_getCode", address, "latest") in ("0x", None):
                raise ConfigRefused(f"there is no contract at {address}", where=f"deployment.{contract}")
        sender = Sender(
            endpoints,
            chain_id=deployment.chain_id,
            receipt_timeout_s=receipt_timeout_s,
            outbox=outbox,
            fees=fees,
        )
        await sender.recover()
    except BaseException:
        await endpoints.close()
        raise
    return EvmLedger(endpoints, deployment, sender, following or Following())


async def _check_chain_ids(endpoints: Endpoints, deployment: Deployment) -> None:
    """Refuse an endpoint of another chain. One that does not answer is left for later, if another does."""
    answered = 0
    for node in endpoints.all:
        try:
            chain_id = as_int(await node.request("eth_chainId"))
        except LedgerUnreachable as error:
            endpoints.blame(node, error)
            if node is endpoints.all[-1] and not answered:
                raise
            continue
        answered += 1
        if chain_id != deployment.chain_id:
            raise ConfigRefused(
                f"{node.name} is on chain {chain_id}, the contracts are on {deployment.chain_id}",
                where="chain",
            )


class EvmLedger:
    """Implements ``ports.Ledger``. Made by ``connect``."""

    def __init__(
        self, endpoints: Endpoints, deployment: Deployment, sender: Sender, following: Following
    ) -> None:
        self._transport = endpoints
        self._deployment = deployment
        self._sender = sender
        self._reader = LogReader(deployment)
        self._head: Block | None = None
        """Of an embedded chain, on which a number names one block for good."""
        self._following = following
        self._follower = Follower(endpoints, deployment, following, on_change=self._look_after_outbox)

    @property
    def chain_id(self) -> int:
        """Identifier of the chain."""
        return self._deployment.chain_id

    @property
    def deployment(self) -> Deployment:
        """Where the contracts are."""
        return self._deployment

    def address_of(self, contract: Contract) -> Address:
        """Checksummed address of a contract."""
        return self._deployment.address_of(contract)

    async def close(self) -> None:
        """Close the connection where ``connect`` opened it."""
        await self._transport.close()

    async def now(self) -> int:
        """Timestamp of the block being built where the node tells it, else of the latest one; Unix seconds.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        for tag in ("pending", "latest"):
            try:
                block = await self._transport.request("eth_getBlockByNumber", tag, False)
            except LedgerError as error:
                if tag == "latest" or error.retryable:
                    raise
                continue
            if block is not None:
                return as_int(as_object(block)["timestamp"])
        raise LedgerError("the node has no latest block")

    async def randomness(self, block: Block) -> bytes:
        """``prevRandao`` of a block; see ``ports.Ledger.randomness``.

        Raises:
            LedgerError: the chain has no such block, or none of its own randomness.
            LedgerUnreachable: no answer in time.
        """
        if not self.is_irrevocable:
            return (await self._follower.header(block)).prev_randao
        answer = await self._transport.request("eth_getBlockByHash", "0x" + block.hash.hex(), False)
        if answer is None:
            raise LedgerError("the chain has no such block", where=f"block {block.number}")
        return as_bytes(as_object(answer)["mixHash"])

    async def read(self, call: Call) -> Any:
        """Result of a view at the latest block; see ``ports.Ledger.read``.

        Raises:
            TransactionReverted: the contract refused.
            LedgerUnreachable: no answer in time.
            ValueError: no such function, or arguments that do not fit it.
        """
        function = codec(call.contract).function(call.function)
        request = {"to": self.address_of(call.contract), "data": "0x" + function.encode(call.arguments).hex()}
        return function.decode(as_bytes(await self._transport.request("eth_call", request, "latest")))

    async def submit(self, call: Call, signer: Signer) -> Receipt:
        """Send a transaction and wait for its receipt; see ``ports.Ledger.submit``.

        Raises:
            FinalityBroken: a block that was final is gone; nothing is sent any more.
            TransactionReverted: the contract refused, with its custom error's name in ``reason``.
            LedgerUnreachable: no receipt in time; the transaction may still be mined.
            ValueError: no such function, or arguments that do not fit it.
        """
        function = codec(call.contract).function(call.function)
        data = function.encode(call.arguments)
        sending = asyncio.ensure_future(
            self._sender.send(signer, to=self.address_of(call.contract), data=data)
        )
        try:
            receipt = await self._followed(sending)
        finally:
            sending.cancel()
        logs = as_objects(receipt["logs"])
        timestamp = await self._timestamp(receipt, logs) if logs else 0
        events = (self._reader.decode(raw_log(log), timestamp) for log in logs)
        return Receipt(
            transaction_hash=as_bytes(receipt["transactionHash"]),
            block=Block(as_int(receipt["blockNumber"]), as_bytes(receipt["blockHash"])),
            gas_used=as_int(receipt["gasUsed"]),
            sender=as_address(receipt["from"]),
            events=tuple(event for event in events if event is not None),
        )

    async def coins_wei(self, account: Address) -> int:
        """The native coins of an account at the latest block; see ``ports.Ledger.coins_wei``.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        return as_int(await self._transport.request("eth_getBalance", account, "latest"))

    async def _followed(self, sending: asyncio.Future[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Wait for a receipt; meanwhile follow the chain, for a reorganisation may drop what must go first.

        Raises:
            FinalityBroken: a block that was final is gone.
        """
        self._follower.check_unbroken()
        while not (await asyncio.wait({sending}, timeout=LOOK_EVERY_S))[0]:
            if self._follower.is_following:
                try:
                    await self._follower.advance()
                except FinalityBroken:
                    raise
                except LedgerError:
                    continue  # Who waits for the receipt will hear of it.
        return sending.result()

    async def _timestamp(self, receipt: Mapping[str, Any], logs: Sequence[Mapping[str, Any]]) -> int:
        """When a transaction was mined, as the node says: Unix seconds."""
        if (stamp := logs[0]["blockTimestamp"]) is not None:
            return as_int(stamp)
        block = await self._transport.request("eth_getBlockByHash", receipt["blockHash"], False)
        if block is None:
            raise LedgerUnreachable("its block was taken back", where=str(receipt["transactionHash"]))
        return as_int(as_object(block)["timestamp"])

    async def settle_pending(self, final_block: int | None = None) -> None:
        """Send again what a reorganisation dropped; see ``transactions.Sender.settle_pending``.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        await self._sender.settle_pending(final_block)

    # ---- following

    @property
    def is_irrevocable(self) -> bool:
        """Whether the chain lives in this process, where no block is ever taken back."""
        return self._transport.is_embedded

    async def finality_s(self) -> int:
        """How long blocks take to become final; see ``ports.Ledger.finality_s``.

        Raises:
            LedgerError: as ``follow``.
        """
        if self.is_irrevocable:
            return 0
        await self._follower.advance()
        return self._follower.head.timestamp - self._follower.final.timestamp

    async def follow(self, since_block: int) -> ChainLog:
        """The events from a block on, final and provisional; see ``ports.Ledger.follow``.

        Raises:
            FinalityBroken: a block that was final is not there any more.
            ChainDisagreement: the chain's endpoints contradict each other.
            LedgerUnreachable: no answer in time, or none that can be true.
        """
        if self.is_irrevocable:
            return await self._all_final(since_block)
        follower = self._follower
        await follower.advance()
        kept_from = follower.kept_from
        first = bisect_left(follower.final_events, since_block, key=lambda event: event.block.number)
        found = ChainLog(
            final=follower.final_events[first:],
            provisional=[one for one in follower.provisional_events if one.block.number >= since_block],
            final_block=Block(follower.final.number, follower.final.hash),
            head=Block(follower.head.number, follower.head.hash),
            rollbacks=follower.rollbacks,
            hold=follower.hold,
            notices=follower.notices,
        )
        follower.let_go(KEPT_EVENTS)
        if since_block < kept_from:
            return replace(found, final=[*await self._past(since_block, kept_from), *found.final])
        return found

    async def _past(self, first: int, end: int) -> list[Event]:
        """Final events that are not held any more, of blocks from ``first`` to before ``end``: read anew."""
        reader = Follower(self._transport, self._deployment, self._following)
        await reader.advance()
        if reader.final.number < end - 1:
            raise LedgerUnreachable(f"it has not come to block {end - 1} again", where="chain")
        return [event for event in reader.final_events if first <= event.block.number < end]

    async def _all_final(self, since_block: int) -> ChainLog:
        """An embedded chain's log, so many blocks at a time."""
        head = self._head
        if head is None or as_int(await self._transport.request("eth_blockNumber")) != head.number:
            latest = as_object(await self._transport.request("eth_getBlockByNumber", "latest", False))
            head = self._head = Block(as_int(latest["number"]), as_bytes(latest["hash"]))
        low = max(since_block, self._deployment.block_number)
        last = min(low + EMBEDDED_SPAN_BLOCKS - 1, head.number)
        if low > last:
            return ChainLog((), (), head, head)
        wanted = {
            "address": [self.address_of(contract) for contract in WATCHED],
            "fromBlock": hex(low),
            "toBlock": hex(last),
        }
        answer = as_objects(await self._transport.request("eth_getLogs", wanted))
        events = (self._reader.decode(raw_log(log), as_int(log["blockTimestamp"])) for log in answer)
        found = [event for event in events if event is not None]
        if last == head.number:
            return ChainLog(found, (), head, head)
        block = as_object(await self._transport.request("eth_getBlockByNumber", hex(last), False))
        return ChainLog(found, (), Block(last, as_bytes(block["hash"])), head, is_whole=False)

    async def has_block(self, block: Block) -> bool:
        """Whether a block is on the chain now; see ``ports.Ledger.has_block``.

        Raises:
            ChainDisagreement: one endpoint has it, another has not.
            LedgerUnreachable: no answer in time.
        """
        return self.is_irrevocable or await self._follower.has_block(block)

    async def _look_after_outbox(self) -> None:
        """Give the chain the transactions again that it took back; note those that are final."""
        await self._sender.settle_pending(self._follower.final.number)
