"""Block headers and receipts as a node shows them, held against their hashes: a node's word proves nothing.

A header whose hash is right has the fields that went into it: parent, time, randomness, the root of its
receipts, and the bloom filter of its logs. So an event that a node invents, moves or leaves out shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eth_utils.crypto import keccak
from ethereum_rlp import rlp

from galaxylearning.chain.transport import as_bytes, as_int, as_object, as_objects
from galaxylearning.errors import AnswerRefused, LedgerError

BLOOM_BYTES: Final = 256
EMPTY_ROOT: Final = keccak(rlp.encode(b""))
RECEIPT_TYPES: Final = (0, 1, 2, 3, 4)
"""Legacy, EIP-2930, EIP-1559, EIP-4844 and EIP-7702; receipts of other types are encoded otherwise."""


def _number(value: Any) -> bytes:
    number = as_int(value)
    return number.to_bytes((number.bit_length() + 7) // 8)


_FIELDS: Final[tuple[tuple[str, Callable[[Any], bytes]], ...]] = (
    ("parentHash", as_bytes),
    ("sha3Uncles", as_bytes),
    ("miner", as_bytes),
    ("stateRoot", as_bytes),
    ("transactionsRoot", as_bytes),
    ("receiptsRoot", as_bytes),
    ("logsBloom", as_bytes),
    ("difficulty", _number),
    ("number", _number),
    ("gasLimit", _number),
    ("gasUsed", _number),
    ("timestamp", _number),
    ("extraData", as_bytes),
    ("mixHash", as_bytes),
    ("nonce", as_bytes),
    ("baseFeePerGas", _number),
    ("withdrawalsRoot", as_bytes),
    ("blobGasUsed", _number),
    ("excessBlobGas", _number),
    ("parentBeaconBlockRoot", as_bytes),
    ("requestsHash", as_bytes),
)
"""The fields of a header in the order of its RLP. Those that a fork has not got are not there.

Source: EIP-1559, EIP-4895, EIP-4844, EIP-4788, EIP-7685.
"""


@dataclass(frozen=True, slots=True)
class Header:
    """What is kept of a block: 32-byte hashes, the bloom filter of its logs, its time in Unix seconds."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    prev_randao: bytes
    receipts_root: bytes
    bloom: bytes

    def may_hold_logs_of(self, address: bytes) -> bool:
        """Whether the bloom filter allows a log of this contract; where not, there is none.

        Source: Ethereum yellow paper, section 4.3.1.
        """
        digest = keccak(address)
        for at in (0, 2, 4):
            bit = int.from_bytes(digest[at : at + 2]) & 2047
            if not self.bloom[BLOOM_BYTES - 1 - bit // 8] >> (bit % 8) & 1:
                return False
        return True


def header_of(answer: Any, *, is_checked: bool, where: str) -> Header:
    """A header from a node's block; with ``is_checked`` its hash is computed again.

    Raises:
        AnswerRefused: a field is missing or malformed, or the hash is not the header's.
    """
    try:
        block = as_object(answer)
        found = Header(
            number=as_int(block["number"]),
            hash=_fixed(block["hash"], 32),
            parent_hash=_fixed(block["parentHash"], 32),
            timestamp=as_int(block["timestamp"]),
            prev_randao=_fixed(block["mixHash"], 32),
            receipts_root=_fixed(block["receiptsRoot"], 32),
            bloom=_fixed(block["logsBloom"], BLOOM_BYTES),
        )
        if is_checked and block_hash(block) != found.hash:
            raise AnswerRefused("the header does not have the hash that it is shown with", where=where)
    except AnswerRefused:
        raise
    except LedgerError as error:
        raise AnswerRefused(f"the header is malformed: {error}", where=where) from error
    return found


def block_hash(block: Mapping[str, Any]) -> bytes:
    """Keccak-256 of the header's RLP.

    Raises:
        LedgerError: a field is malformed.
    """
    return keccak(rlp.encode([read(block[name]) for name, read in _FIELDS if block.get(name) is not None]))


def logs_of_receipts(answer: Any, header: Header, *, where: str) -> list[Mapping[str, Any]] | None:
    """The logs of a block, from receipts that are proven by the header's root; None where they cannot be.

    Receipts of kinds that are not Ethereum's own have an encoding of their own, so nothing follows from them.

    Raises:
        AnswerRefused: the receipts are malformed, or not the ones of this header.
    """
    try:
        receipts = as_objects(answer)
        if any(as_int(receipt["type"] or "0x0") not in RECEIPT_TYPES for receipt in receipts):
            return None
        root = ordered_root([_receipt_bytes(receipt) for receipt in receipts])
    except LedgerError as error:
        raise AnswerRefused(f"the receipts are malformed: {error}", where=where) from error
    if root != header.receipts_root:
        raise AnswerRefused(f"the receipts of block {header.number} are not those of its header", where=where)
    return [log for receipt in receipts for log in as_objects(receipt["logs"])]


def _receipt_bytes(receipt: Mapping[str, Any]) -> bytes:
    """A receipt as it is in the tree. Source: EIP-2718, EIP-658."""
    logs: list[Any] = []
    for log in as_objects(receipt["logs"]):
        if not isinstance(log["topics"], list):
            raise LedgerError("the topics of a log are no list")
        topics = [as_bytes(topic) for topic in log["topics"]]
        logs.append([as_bytes(log["address"]), topics, as_bytes(log["data"])])
    status, gas = _number(receipt["status"]), _number(receipt["cumulativeGasUsed"])
    body = rlp.encode([status, gas, as_bytes(receipt["logsBloom"]), logs])
    kind = as_int(receipt["type"] or "0x0")
    return body if kind == 0 else bytes([kind]) + body


def _fixed(value: Any, length: int) -> bytes:
    found = as_bytes(value)
    if len(found) != length:
        raise LedgerError(f"the node answered {len(found)} bytes where {length} belong")
    return found


# ---- the Merkle-Patricia tree of a list


def ordered_root(values: Sequence[bytes]) -> bytes:
    """Root of the Merkle-Patricia tree of a list, keyed by the RLP of the index.

    Source: Ethereum yellow paper, appendix D.
    """
    if not values:
        return EMPTY_ROOT
    entries = {_nibbles(rlp.encode(_index(i))): value for i, value in enumerate(values)}
    return keccak(rlp.encode(_node(entries, 0)))


def _index(index: int) -> bytes:
    return index.to_bytes((index.bit_length() + 7) // 8)


def _nibbles(key: bytes) -> bytes:
    return bytes(nibble for byte in key for nibble in (byte >> 4, byte & 15))


def _path(nibbles: bytes, *, is_leaf: bool) -> bytes:
    """The hex-prefix encoding."""
    is_odd = len(nibbles) % 2
    head = bytes([2 * is_leaf + is_odd, *([] if is_odd else [0])]) + nibbles
    return bytes(head[i] << 4 | head[i + 1] for i in range(0, len(head), 2))


def _node(entries: Mapping[bytes, bytes], depth: int) -> Any:
    """The structure of the node that holds these entries, whose keys agree before ``depth``."""
    if len(entries) == 1:
        ((key, value),) = entries.items()
        return [_path(key[depth:], is_leaf=True), value]
    first, last = min(entries), max(entries)
    shared = depth
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    if shared > depth:
        return [_path(first[depth:shared], is_leaf=False), _child(_node(entries, shared))]
    branches: list[Any] = [b""] * 17
    for nibble in range(16):
        below = {key: value for key, value in entries.items() if len(key) > depth and key[depth] == nibble}
        if below:
            branches[nibble] = _child(_node(below, depth + 1))
    branches[16] = next((value for key, value in entries.items() if len(key) == depth), b"")
    return branches


def _child(node: Any) -> Any:
    """A node within its parent: itself where it is short, else its hash."""
    encoded = rlp.encode(node)
    return node if len(encoded) < 32 else keccak(encoded)
