"""Reading JSON-RPC parameters. Whatever arrives here is a stranger's; nothing is guessed or repaired.

Source: EIP-1474 and the Ethereum execution APIs (QUANTITY and DATA encodings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from galaxylearning.chain.embedded.rpc_error import invalid_params

MAX_DATA_BYTES = 256 * 1024
MAX_TOPIC_CHOICES = 1_024
MAX_ADDRESSES = 1_024

_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_TAGS = frozenset({"latest", "pending", "safe", "finalized", "earliest"})

BlockTag = int | Literal["latest", "pending", "safe", "finalized", "earliest"]


def quantity(value: Any, field: str, *, bits: int = 256) -> int:
    """A ``0x``-hex number below 2**bits. A plain non-negative int is taken too, as development nodes do."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif (
        isinstance(value, str)
        and value[:2] == "0x"
        and 2 < len(value) <= 2 + bits // 4
        and _HEX_DIGITS.issuperset(value[2:])
    ):
        number = int(value, 16)
    else:
        raise invalid_params(field, f"a 0x-prefixed hexadecimal number of at most {bits} bits")
    if not 0 <= number < 1 << bits:
        raise invalid_params(field, f"a number from 0 to 2**{bits}-1")
    return number


def data(value: Any, field: str, *, length: int | None = None) -> bytes:
    """``0x``-hex bytes, of exactly ``length`` where given, at most 256 KiB otherwise."""
    allowed = "0x-prefixed hexadecimal bytes" if length is None else f"0x and {2 * length} hexadecimal digits"
    if not isinstance(value, str) or value[:2] != "0x" or len(value) % 2:
        raise invalid_params(field, allowed)
    if len(value) > 2 + 2 * MAX_DATA_BYTES:
        raise invalid_params(field, f"at most {MAX_DATA_BYTES} bytes")
    if not _HEX_DIGITS.issuperset(value[2:]):
        raise invalid_params(field, allowed)
    decoded = bytes.fromhex(value[2:])
    if length is not None and len(decoded) != length:
        raise invalid_params(field, allowed)
    return decoded


def address(value: Any, field: str) -> bytes:
    """A 20-byte account address."""
    return data(value, field, length=20)


def flag(value: Any, field: str) -> bool:
    """A JSON true or false."""
    if not isinstance(value, bool):
        raise invalid_params(field, "true or false")
    return value


def block_tag(value: Any, field: str) -> BlockTag:
    """A block number or one of the tags latest, pending, safe, finalized, earliest."""
    if isinstance(value, str) and value in _TAGS:
        return value  # type: ignore[return-value]
    if isinstance(value, Mapping) and set(value) == {"blockNumber"}:
        value = value["blockNumber"]
    if isinstance(value, str) and value[:2] != "0x":
        raise invalid_params(field, "a 0x-hex block number or latest, pending, safe, finalized, earliest")
    return quantity(value, field, bits=63)


def arguments(params: Any, method: str, *, least: int, most: int) -> list[Any]:
    """The positional parameters of a call, between ``least`` and ``most`` of them, padded with None."""
    if not isinstance(params, Sequence) or isinstance(params, str | bytes):
        raise invalid_params(method, "called with a list of parameters")
    if not least <= len(params) <= most:
        allowed = str(least) if least == most else f"{least} to {most}"
        raise invalid_params(method, f"called with {allowed} parameters, not {len(params)}")
    return [*params, *[None] * (most - len(params))]


@dataclass(frozen=True, slots=True)
class CallRequest:
    """The transaction object of eth_call, eth_estimateGas and eth_sendTransaction; None where not given."""

    sender: bytes
    to: bytes | None
    data: bytes
    value_wei: int
    gas: int | None
    max_fee_wei: int | None
    priority_fee_wei: int | None
    nonce: int | None


_CALL_FIELDS = frozenset(
    {
        "from", "to", "data", "input", "value", "gas", "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas",
        "nonce", "chainId", "type", "accessList",
    }
)  # fmt: skip


def call_request(value: Any, field: str, *, chain_id: int) -> CallRequest:
    """Check and read a transaction object."""
    if not isinstance(value, Mapping):
        raise invalid_params(field, "an object")
    unknown = sorted(str(key) for key in value if key not in _CALL_FIELDS)
    if unknown:
        raise invalid_params(f"{field}.{unknown[0][:40]}", f"absent; known fields are {sorted(_CALL_FIELDS)}")
    given = {key: item for key, item in value.items() if item is not None}
    if "chainId" in given and quantity(given["chainId"], f"{field}.chainId") != chain_id:
        raise invalid_params(f"{field}.chainId", f"{chain_id}, the identifier of this chain")
    if given.get("accessList"):
        raise invalid_params(f"{field}.accessList", "absent or empty; sign a raw transaction to use one")
    if "type" in given and quantity(given["type"], f"{field}.type", bits=8) not in (0, 2):
        raise invalid_params(f"{field}.type", "0x0 or 0x2; sign a raw transaction for other types")
    payload = data(given.get("data", "0x"), f"{field}.data")
    if "input" in given:
        payload_as_input = data(given["input"], f"{field}.input")
        if "data" in given and payload_as_input != payload:
            raise invalid_params(f"{field}.input", "equal to data where both are given")
        payload = payload_as_input

    def optional(name: str, bits: int = 256) -> int | None:
        return quantity(given[name], f"{field}.{name}", bits=bits) if name in given else None

    gas_price = optional("gasPrice")
    max_fee = optional("maxFeePerGas")
    if gas_price is not None and max_fee is not None:
        raise invalid_params(f"{field}.gasPrice", "absent where maxFeePerGas is given")
    return CallRequest(
        sender=address(given["from"], f"{field}.from") if "from" in given else bytes(20),
        to=address(given["to"], f"{field}.to") if "to" in given else None,
        data=payload,
        value_wei=optional("value") or 0,
        gas=optional("gas", 64),
        max_fee_wei=max_fee if gas_price is None else gas_price,
        priority_fee_wei=optional("maxPriorityFeePerGas") if gas_price is None else gas_price,
        nonce=optional("nonce", 64),
    )


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What eth_getLogs asks for. An empty set of choices matches everything."""

    addresses: tuple[bytes, ...]
    topics: tuple[tuple[bytes, ...], ...]
    from_block: BlockTag
    to_block: BlockTag
    block_hash: bytes | None


def log_filter(value: Any, field: str) -> LogFilter:
    """Check and read a filter object."""
    if not isinstance(value, Mapping):
        raise invalid_params(field, "an object")
    known = {"address", "topics", "fromBlock", "toBlock", "blockHash"}
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise invalid_params(f"{field}.{unknown[0][:40]}", f"absent; known fields are {sorted(known)}")
    given = {key: item for key, item in value.items() if item is not None}
    if "blockHash" in given and ("fromBlock" in given or "toBlock" in given):
        raise invalid_params(f"{field}.blockHash", "absent where fromBlock or toBlock is given")
    addresses = given.get("address", [])
    addresses = [addresses] if isinstance(addresses, str) else addresses
    if not isinstance(addresses, Sequence) or len(addresses) > MAX_ADDRESSES:
        raise invalid_params(f"{field}.address", f"an address or a list of at most {MAX_ADDRESSES}")
    topics = given.get("topics", [])
    if not isinstance(topics, Sequence) or isinstance(topics, str) or len(topics) > 4:
        raise invalid_params(f"{field}.topics", "a list of at most 4 topics, lists of topics or nulls")
    return LogFilter(
        addresses=tuple(address(item, f"{field}.address") for item in addresses),
        topics=tuple(_topic_choices(item, f"{field}.topics[{i}]") for i, item in enumerate(topics)),
        from_block=block_tag(given.get("fromBlock", "latest"), f"{field}.fromBlock"),
        to_block=block_tag(given.get("toBlock", "latest"), f"{field}.toBlock"),
        block_hash=data(given["blockHash"], f"{field}.blockHash", length=32)
        if "blockHash" in given
        else None,
    )


def _topic_choices(value: Any, field: str) -> tuple[bytes, ...]:
    if value is None:
        return ()
    choices = [value] if isinstance(value, str) else value
    if not isinstance(choices, Sequence) or len(choices) > MAX_TOPIC_CHOICES:
        raise invalid_params(field, f"a topic, null, or a list of at most {MAX_TOPIC_CHOICES} topics")
    return tuple(data(choice, field, length=32) for choice in choices)
