"""The ledger on an EVM chain: any node web3.py can reach, or an embedded chain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.signer import KeySigner
from galaxylearning.chain.transactions import RECEIPT_TIMEOUT_S, Fees, Sender
from galaxylearning.chain.transport import (
    REQUEST_TIMEOUT_S,
    Node,
    Transport,
    as_address,
    as_bytes,
    as_int,
    as_object,
    as_objects,
)
from galaxylearning.errors import ConfigRefused, LedgerError
from galaxylearning.ports import Call, Contract, Event, Outbox, Receipt, Signer
from galaxylearning.units import Address

__all__ = ["Deployment", "EvmLedger", "KeySigner", "connect", "deploy", "fund"]

_LOG_SPAN_BLOCKS = 10_000
_KNOWN_LIMIT = 50_000
_MOST_BLOCKS = 10**9
_CONTRACTS: tuple[Contract, ...] = ("jobs", "registry", "token")


async def connect(
    url_or_provider: Node,
    deployment: Deployment,
    *,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    receipt_timeout_s: float = RECEIPT_TIMEOUT_S,
    outbox: Outbox | None = None,
    fees: Fees | None = None,
) -> EvmLedger:
    """A ledger over a node, once the node turned out to be the chain the deployment is on.

    What an earlier process left unfinished in ``outbox`` is taken up before anything else is asked.

    Args:
        url_or_provider: http(s):// or ws(s):// URL, a web3.py provider, an ``AsyncWeb3``, or an
            ``EmbeddedChain``.
        outbox: where transactions are written down before they are sent; without it they are forgotten with
            the process.
        fees: what may be paid for gas.

    Raises:
        ConfigRefused: wrong kind of URL, another chain, or no contract at one of the addresses.
        LedgerUnreachable: no answer in time.
    """
    transport = Transport(url_or_provider, timeout_s=request_timeout_s)
    try:
        chain_id = as_int(await transport.request("eth_chainId"))
        if chain_id != deployment.chain_id:
            raise ConfigRefused(f"the node's chain is {chain_id}, not {deployment.chain_id}", where="chain")
        for contract in _CONTRACTS:
            address = deployment.address_of(contract)
            if await transport.request("eth_getCode", address, "latest") in ("0x", None):
                raise ConfigRefused(f"there is no contract at {address}", where=f"deployment.{contract}")
        sender = Sender(
            transport, chain_id=chain_id, receipt_timeout_s=receipt_timeout_s, outbox=outbox, fees=fees
        )
        await sender.recover()
    except BaseException:
        await transport.close()
        raise
    return EvmLedger(transport, deployment, sender)


class EvmLedger:
    """Implements ``ports.Ledger``. Made by ``connect``."""

    def __init__(self, transport: Transport, deployment: Deployment, sender: Sender) -> None:
        self._transport = transport
        self._deployment = deployment
        self._sender = sender
        self._contract_at = {deployment.address_of(contract): contract for contract in _CONTRACTS}
        self._timestamps: dict[str, int] = {}
        self._senders: dict[str, Address] = {}

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

    async def randomness(self, block_number: int) -> bytes:
        """``prevRandao`` of a block; see ``ports.Ledger.randomness``.

        Raises:
            LedgerError: the chain has no such block, or none of its own randomness.
            LedgerUnreachable: no answer in time.
        """
        block = await self._transport.request("eth_getBlockByNumber", hex(block_number), False)
        found = None if block is None else as_object(block).get("mixHash")
        if found is None or len(as_bytes(found)) != 32:
            raise LedgerError("the chain does not tell its randomness", where=f"block {block_number}")
        return as_bytes(found)

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
            TransactionReverted: the contract refused, with its custom error's name in ``reason``.
            LedgerUnreachable: no receipt in time; the transaction may still be mined.
            ValueError: no such function, or arguments that do not fit it.
        """
        function = codec(call.contract).function(call.function)
        data = function.encode(call.arguments)
        receipt = await self._sender.send(signer, to=self.address_of(call.contract), data=data)
        sender = as_address(receipt["from"])
        self._senders[receipt["transactionHash"]] = sender
        return Receipt(
            transaction_hash=as_bytes(receipt["transactionHash"]),
            block_number=as_int(receipt["blockNumber"]),
            gas_used=as_int(receipt["gasUsed"]),
            sender=sender,
            events=tuple(await self._decoded(as_objects(receipt["logs"]))),
        )

    async def settle_pending(self, final_block: int | None = None) -> None:
        """Send again what a reorganisation dropped; see ``transactions.Sender.settle_pending``.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        await self._sender.settle_pending(final_block)

    async def events(self, *, job_id: int | None = None, since_block: int = 0) -> Sequence[Event]:
        """Logs of the jobs and registry contracts, or of one job, oldest first.

        Raises:
            LedgerUnreachable: no answer in time.
        """
        if job_id is not None and not 0 <= job_id < 1 << 256:
            raise ValueError("job_id must fit 256 bits")
        wanted: dict[str, Any] = {"address": [self.address_of("jobs"), self.address_of("registry")]}
        if job_id is not None:
            wanted = {
                "address": self.address_of("jobs"),
                "topics": [None, "0x" + job_id.to_bytes(32).hex()],
            }
        head = as_int(await self._transport.request("eth_blockNumber"))
        if head - self._deployment.block_number > _MOST_BLOCKS:
            raise LedgerError(
                f"the node claims to be at block {hex(head)[:40]}; at most {_MOST_BLOCKS} after that of the "
                "contracts allowed"
            )
        logs: list[Mapping[str, Any]] = []
        for first in range(max(since_block, self._deployment.block_number), head + 1, _LOG_SPAN_BLOCKS):
            last = min(first + _LOG_SPAN_BLOCKS - 1, head)
            span = {**wanted, "fromBlock": hex(first), "toBlock": hex(last)}
            found = as_objects(await self._transport.request("eth_getLogs", span))
            if any(not first <= as_int(log["blockNumber"]) <= last for log in found):
                raise LedgerError(f"the node gives logs from outside of blocks {first} to {last}")
            logs.extend(found)
        return await self._decoded(logs)

    async def _decoded(self, logs: Sequence[Mapping[str, Any]]) -> list[Event]:
        """The events among these logs; logs of other contracts and of no known event are left out."""
        ordered = sorted(logs, key=lambda log: (as_int(log["blockNumber"]), as_int(log["logIndex"])))
        known = []
        for log in ordered:
            if not isinstance(log["topics"], list):
                raise LedgerError("the node gives a log whose topics are no list", where="topics")
            topics = [as_bytes(topic) for topic in log["topics"]]
            contract = self._contract_at.get(as_address(log["address"]))
            if contract is not None and topics and topics[0] in codec(contract).events:
                for name in ("blockHash", "transactionHash"):
                    if len(as_bytes(log[name])) != 32:
                        raise LedgerError("the node gives a log without its 32 bytes", where=name)
                known.append((contract, topics, log))
        await self._learn([log for _, _, log in known])
        events = []
        for contract, topics, log in known:
            kind = codec(contract).events[topics[0]]
            events.append(
                Event(
                    contract=contract,
                    name=kind.name,
                    arguments=kind.decode(topics, as_bytes(log["data"])),
                    block_number=as_int(log["blockNumber"]),
                    timestamp=self._timestamps[log["blockHash"]],
                    log_index=as_int(log["logIndex"]),
                    transaction_hash=as_bytes(log["transactionHash"]),
                    sender=self._senders[log["transactionHash"]],
                )
            )
        return events

    async def _learn(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Find out the time of each log's block and the sender of its transaction, once each."""
        if len(self._timestamps) + len(self._senders) > _KNOWN_LIMIT:
            self._timestamps.clear()
            self._senders.clear()
        for log in logs:
            stamp = log.get("blockTimestamp")
            if stamp is not None:
                self._timestamps[log["blockHash"]] = stamp if isinstance(stamp, int) else as_int(stamp)
        blocks = {log["blockHash"] for log in logs} - self._timestamps.keys()
        hashes = {log["transactionHash"] for log in logs} - self._senders.keys()
        await asyncio.gather(
            *map(self._learn_timestamp, sorted(blocks)), *map(self._learn_sender, sorted(hashes))
        )

    async def _learn_timestamp(self, block_hash: str) -> None:
        block = await self._transport.request("eth_getBlockByHash", block_hash, False)
        if block is None:
            raise LedgerError("the chain was reorganised while it was read; read again", where=block_hash)
        self._timestamps[block_hash] = as_int(as_object(block)["timestamp"])

    async def _learn_sender(self, transaction_hash: str) -> None:
        transaction = await self._transport.request("eth_getTransactionByHash", transaction_hash)
        if transaction is None:
            raise LedgerError(
                "the chain was reorganised while it was read; read again", where=transaction_hash
            )
        self._senders[transaction_hash] = as_address(as_object(transaction)["from"])
