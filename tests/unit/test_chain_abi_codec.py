"""Calls, results, logs and errors of the contracts as Python values, against eth_abi and known selectors."""

from __future__ import annotations

from typing import Any

import pytest
from eth_abi.abi import encode

from galaxylearning.chain.abi_codec import ARTIFACTS, build_codec, codec, describe_revert
from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import LedgerError

ONE = "0x" + "11" * 19 + "aA"
CHECKSUMMED = "0x11111111111111111111111111111111111111AA"


def test_selectors_are_the_published_ones() -> None:
    """ERC-20's transfer and balanceOf, ERC-2612's permit."""
    token = codec("token").functions
    assert token["transfer"].selector.hex() == "a9059cbb"
    assert token["balanceOf"].selector.hex() == "70a08231"
    assert token["permit"].selector.hex() == "d505accf"


@pytest.mark.parametrize("contract", ["jobs", "registry", "token"])
def test_every_artifact_is_complete(contract: Any) -> None:
    made = codec(contract)
    assert made.functions
    assert made.events
    assert made.errors
    assert len(made.bytecode) > 1_000
    assert set(ARTIFACTS) == {"jobs", "registry", "token"}


def test_calls_encode_as_eth_abi_does() -> None:
    arguments = (1, [(0, CHECKSUMMED, 5), (1, CHECKSUMMED, 6)], [b"\1" * 32], [True, False])
    encoded = codec("jobs").function("pay").encode(arguments)
    types = ["uint256", "(uint256,address,uint256)[]", "bytes32[]", "bool[]"]
    signature = f"pay({','.join(types)})"
    assert encoded == keccak(signature.encode())[:4] + encode(types, arguments)
    assert codec("jobs").function(signature).encode(arguments) == encoded


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("cancel", ()),
        ("cancel", (1, 2)),
        ("cancel", (-1,)),
        ("cancel", (2**256,)),
        ("cancel", ("1",)),
        ("cancel", (1.0,)),
        ("claim", (1, 2, "nobody", 3, [])),
        ("claim", (1, 2, CHECKSUMMED, 3, [b"\1" * 33])),
        ("claim", (1, 2, CHECKSUMMED, 3, None)),
        ("postJob", ({"token": CHECKSUMMED},)),
        ("noSuchFunction", ()),
    ],
)
def test_arguments_that_do_not_fit_are_a_value_error(function: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=function):
        codec("jobs").function(function).encode(arguments)


STRUCTS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "view",
        "inputs": [],
        "outputs": [
            {
                "type": "tuple",
                "name": "",
                "components": [
                    {"type": "address", "name": "who"},
                    {"type": "tuple[2]", "name": "pairs", "components": [{"type": "bytes32", "name": "a"}]},
                    {"type": "address[]", "name": "others"},
                ],
            }
        ],
    },
    {
        "type": "function",
        "name": "unnamed",
        "inputs": [],
        "outputs": [{"type": "uint8", "name": ""}, {"type": "bool", "name": "x"}],
    },
    {"type": "function", "name": "nothing", "inputs": [], "outputs": []},
]


def test_structs_come_as_dicts_and_addresses_checksummed() -> None:
    view = build_codec(STRUCTS).function("view")
    data = encode(["(address,(bytes32)[2],address[])"], [(ONE, [(b"\1" * 32,), (b"\2" * 32,)], [ONE, ONE])])
    assert view.decode(data) == {
        "who": CHECKSUMMED,
        "pairs": ({"a": b"\1" * 32}, {"a": b"\2" * 32}),
        "others": (CHECKSUMMED, CHECKSUMMED),
    }
    for length in range(len(data)):
        with pytest.raises(LedgerError):
            view.decode(data[:length])
    assert build_codec(STRUCTS).function("unnamed").decode(encode(["uint8", "bool"], [7, True])) == (7, True)
    assert build_codec(STRUCTS).function("nothing").decode(b"") is None


def test_several_named_results_come_as_a_dict() -> None:
    seat = codec("jobs").function("seat")
    data = encode(["uint256", "bool", "bytes32", "bytes32"], [2, True, b"\1" * 32, b"\2" * 32])
    assert seat.decode(data) == {"index": 2, "taken": True, "committed": b"\1" * 32, "revealed": b"\2" * 32}


def test_logs_decode_by_name_in_the_order_declared() -> None:
    kind = codec("jobs").events[keccak(b"Paid(uint256,uint256,address,uint256)")]
    topics = [b"", (1).to_bytes(32), (2).to_bytes(32), bytes(12) + bytes.fromhex(ONE[2:])]
    decoded = kind.decode(topics, (5).to_bytes(32))
    assert list(decoded.items()) == [("jobId", 1), ("index", 2), ("account", CHECKSUMMED), ("amount", 5)]
    with pytest.raises(LedgerError, match="indexed"):
        kind.decode(topics[:-1], (5).to_bytes(32))
    with pytest.raises(LedgerError):
        kind.decode(topics, b"\1")
    with pytest.raises(LedgerError):
        kind.decode([*topics[:-1], b"\1" * 32], (5).to_bytes(32))  # no address has its upper bytes set


def test_an_indexed_string_is_its_hash() -> None:
    event = {
        "type": "event",
        "name": "Named",
        "inputs": [{"type": "string", "name": "name", "indexed": True}],
    }
    (kind,) = build_codec([event]).events.values()
    assert kind.decode([b"", b"\7" * 32], b"") == {"name": b"\7" * 32}


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (keccak(b"WrongPhase(uint8)")[:4] + (3).to_bytes(32), "WrongPhase", "phase=3"),
        (keccak(b"AlreadyPaid()")[:4], "AlreadyPaid", "AlreadyPaid()"),
        (keccak(b"NotJobs()")[:4], "NotJobs", "NotJobs()"),
        (
            keccak(b"InvalidParameter(bytes32)")[:4] + b"rounds".ljust(32, b"\0"),
            "InvalidParameter",
            "'rounds'",
        ),
        (
            keccak(b"ERC20InsufficientBalance(address,uint256,uint256)")[:4]
            + encode(["address", "uint256", "uint256"], [ONE, 1, 2]),
            "ERC20InsufficientBalance",
            CHECKSUMMED,
        ),
        (keccak(b"Error(string)")[:4] + encode(["string"], ["too poor"]), "Error", "too poor"),
        (keccak(b"Panic(uint256)")[:4] + (0x11).to_bytes(32), "Panic", "0x11"),
        (b"", "Reverted", "no reason"),
        (b"\1\2", "Reverted", "0x0102"),
        (b"\xff" * 100, "Reverted", "0xffff"),
        (keccak(b"WrongPhase(uint8)")[:4] + b"\xff" * 32, "Reverted", "undecodable"),
        (keccak(b"Error(string)")[:4] + b"\xff" * 64, "Reverted", "undecodable"),
    ],
)
def test_revert_data_is_named(data: bytes, reason: str, says: str) -> None:
    named, sentence = describe_revert(data)
    assert named == reason
    assert says in sentence
    assert len(sentence) < 400
