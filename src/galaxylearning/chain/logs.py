"""Logs as a node shows them: asked for, held against what was asked, decoded to events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from galaxylearning.chain.abi_codec import codec
from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.headers import Header, logs_of_receipts
from galaxylearning.chain.transport import NodeRefused, Transport, as_address, as_bytes, as_int, as_objects
from galaxylearning.errors import AnswerRefused, LedgerError, LedgerUnreachable
from galaxylearning.ports import Block, Contract, Event
from galaxylearning.units import Address

SPAN_BLOCKS: Final = 10_000
WATCHED: Final[tuple[Contract, ...]] = ("jobs", "registry")
CONTRACTS: Final[tuple[Contract, ...]] = (*WATCHED, "token")
_METHOD: Final = "eth_getLogs"


@dataclass(frozen=True, slots=True)
class RawLog:
    """A log that is not decoded. What is compared between endpoints and with receipts."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block: Block
    log_index: int
    transaction_hash: bytes


def raw_log(log: Mapping[str, Any]) -> RawLog:
    """A log from a node's JSON.

    Raises:
        LedgerError: it is malformed, or of a block that was taken back.
    """
    if log["removed"]:
        raise LedgerError("the log is marked as removed")
    if not isinstance(log["topics"], list):
        raise LedgerError("the topics of a log are no list", where="topics")
    for name in ("blockHash", "transactionHash"):
        if len(as_bytes(log[name])) != 32:
            raise LedgerError("a log has not its 32 bytes", where=name)
    return RawLog(
        address=as_address(log["address"]),
        topics=tuple(as_bytes(topic) for topic in log["topics"]),
        data=as_bytes(log["data"]),
        block=Block(as_int(log["blockNumber"]), as_bytes(log["blockHash"])),
        log_index=as_int(log["logIndex"]),
        transaction_hash=as_bytes(log["transactionHash"]),
    )


class LogReader:
    """Reads the logs of the jobs and registry contracts of one deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._contract_at = {deployment.address_of(contract): contract for contract in CONTRACTS}
        self._watched = [deployment.address_of(contract) for contract in WATCHED]
        self._bytes_of = tuple(as_bytes(address) for address in self._watched)

    def may_be_in(self, header: Header) -> bool:
        """Whether a block can hold a log of ours, by its bloom filter."""
        return any(header.may_hold_logs_of(address) for address in self._bytes_of)

    async def of_block(self, node: Transport, header: Header) -> list[RawLog]:
        """The logs of one block, asked for by its hash, so that no reorganisation can mix two chains.

        Raises:
            AnswerRefused: they are not logs of this block and these contracts.
            LedgerUnreachable: no answer, or the node has no such block any more.
        """
        wanted = {"address": self._watched, "blockHash": "0x" + header.hash.hex()}
        try:
            answer = await node.request(_METHOD, wanted)
        except NodeRefused as error:
            raise LedgerUnreachable(f"block {header.number} went while it was read: {error}") from error
        found = self._checked(answer, header.number, header.number, node.name)
        if any(log.block.hash != header.hash for log in found):
            raise AnswerRefused(f"logs of another block {header.number} than asked for", where=node.name)
        return found

    async def of_range(self, node: Transport, first: int, last: int) -> list[RawLog]:
        """The logs from block ``first`` to ``last``; a node that finds it too many is asked for less.

        Raises:
            AnswerRefused: they are not logs of these blocks and contracts.
            LedgerError: the node refused.
        """
        found: list[RawLog] = []
        span = SPAN_BLOCKS
        while first <= last:
            span = min(span, last - first + 1)
            end = first + span - 1
            wanted = {"address": self._watched, "fromBlock": hex(first), "toBlock": hex(end)}
            try:
                answer = await node.request(_METHOD, wanted)
            except NodeRefused:
                if span == 1:
                    raise
                span = max(1, span // 4)
                continue
            found += self._checked(answer, first, end, node.name)
            first = end + 1
        return found

    def _checked(self, answer: Any, first: int, last: int, where: str) -> list[RawLog]:
        """The logs of an answer in the order of the chain."""
        try:
            found = [raw_log(log) for log in as_objects(answer)]
        except LedgerError as error:
            raise AnswerRefused(f"a log is malformed: {error}", where=where) from error
        found.sort(key=lambda log: (log.block.number, log.log_index))
        places = {(log.block.number, log.log_index) for log in found}
        hashes = {log.block for log in found}
        for problem, is_so in (
            ("a log of another contract", any(log.address not in self._watched for log in found)),
            ("a log outside of the asked range", any(not first <= log.block.number <= last for log in found)),
            ("two logs in one place", len(places) != len(found)),
            ("logs of two blocks of one number", len(hashes) != len({block.number for block in hashes})),
        ):
            if is_so:
                raise AnswerRefused(f"{_METHOD} of blocks {first} to {last} gives {problem}", where=where)
        return found

    async def check(self, node: Transport, header: Header, logs: Sequence[RawLog]) -> bool:
        """Hold a block's logs against its receipts, which its header proves; False where that cannot be done.

        Raises:
            AnswerRefused: a log was left out, invented or changed.
            LedgerUnreachable: no answer.
        """
        try:
            answer = await node.request("eth_getBlockReceipts", "0x" + header.hash.hex())
        except NodeRefused:
            return False
        if answer is None:
            raise LedgerUnreachable(f"no receipts of block {header.number}", where=node.name)
        proven = logs_of_receipts(answer, header, where=node.name)
        if proven is None:
            return False
        wanted = [
            (
                index,
                as_address(log["address"]),
                tuple(map(as_bytes, log["topics"] or ())),
                as_bytes(log["data"]),
            )
            for index, log in enumerate(proven)
            if as_address(log["address"]) in self._watched
        ]
        given = [(log.log_index, log.address, log.topics, log.data) for log in logs]
        if wanted != given:
            raise AnswerRefused(
                f"{_METHOD} gives {len(given)} logs of block {header.number}, not the {len(wanted)} of its "
                "receipts",
                where=node.name,
            )
        return True

    def decode(self, log: RawLog, timestamp: int) -> Event | None:
        """The event that a log is, or None for other contracts and events that this program does not know."""
        contract = self._contract_at.get(log.address)
        kind = None if contract is None or not log.topics else codec(contract).events.get(log.topics[0])
        if contract is None or kind is None:
            return None
        return Event(
            contract=contract,
            name=kind.name,
            arguments=kind.decode(log.topics, log.data),
            block=log.block,
            timestamp=timestamp,
            log_index=log.log_index,
            transaction_hash=log.transaction_hash,
        )
