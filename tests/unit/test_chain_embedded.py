"""The embedded chain in memory: what only it promises, beyond what anvil does too."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from galaxylearning.chain import bounded_json
from galaxylearning.chain.embedded import EmbeddedChain, RpcError
from galaxylearning.chain.embedded.provider import plain_json
from galaxylearning.errors import ConfigRefused

NOW = 1_800_000_000
ADDRESS = "0x" + "11" * 20


def chain(**settings: Any) -> EmbeddedChain:
    """A chain in memory whose wall clock stands still."""
    return EmbeddedChain(None, now=lambda: NOW, **settings)


def refused(made: EmbeddedChain, method: str, *params: Any) -> RpcError:
    """The error of a request that must fail."""
    with pytest.raises(RpcError) as caught:
        made.request(method, list(params))
    return caught.value


def test_the_faucet_owns_what_it_was_given() -> None:
    made = chain(faucet_balance_wei=5)
    (faucet,) = made.request("eth_accounts", [])
    assert faucet == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert made.request("eth_getBalance", [faucet]) == "0x5"
    error = refused(made, "eth_sendTransaction", {"from": faucet, "to": ADDRESS, "value": "0x1"})
    assert "insufficient funds" in str(error)


@pytest.mark.parametrize("chain_id", [0, -1, 1 << 53])
def test_a_chain_identifier_out_of_range_is_refused(chain_id: int) -> None:
    with pytest.raises(ConfigRefused, match="chain_id"):
        chain(chain_id=chain_id)
    assert chain(chain_id=(1 << 53) - 1).chain_id == (1 << 53) - 1


def test_time_never_runs_backwards_and_may_stand_still() -> None:
    clock = [NOW]
    made = EmbeddedChain(None, now=lambda: clock[0])
    stamps = []
    for now in (NOW, NOW + 5, NOW - 100, NOW + 6):
        clock[0] = now
        made.request("evm_mine", [])
        stamps.append(int(made.request("eth_getBlockByNumber", ["latest", False])["timestamp"], 16) - NOW)
    assert stamps == [0, 5, 5, 6]


def test_a_set_timestamp_moves_the_clock_for_good() -> None:
    made = chain()
    made.request("evm_setNextBlockTimestamp", [NOW + 50])
    for _ in range(2):
        made.request("evm_mine", [])
    assert int(made.request("eth_getBlockByNumber", ["latest", False])["timestamp"], 16) == NOW + 50
    assert refused(made, "evm_setNextBlockTimestamp", NOW + 49).code == -32602
    assert made.request("evm_increaseTime", ["0x10"]) == 66
    assert refused(made, "evm_increaseTime", (1 << 63) - 1).code == -32602


def test_only_the_latest_state_is_kept_and_the_refusal_says_so() -> None:
    made = chain()
    made.request("evm_mine", [])
    for tag in ("latest", "pending", "safe", "finalized", "0x1", {"blockNumber": "0x1"}):
        assert made.request("eth_getBalance", [ADDRESS, tag]) == "0x0"
    assert "state of block 0 is not kept" in str(refused(made, "eth_getBalance", ADDRESS, "earliest"))
    assert "does not exist" in str(refused(made, "eth_call", {"to": ADDRESS}, "0x2"))


def test_the_base_fee_falls_in_empty_blocks_as_eip_1559_says() -> None:
    made = chain()
    fees = []
    for _ in range(3):
        made.request("evm_mine", [])
        fees.append(int(made.request("eth_getBlockByNumber", ["latest", False])["baseFeePerGas"], 16))
    assert fees == [875_000_000, 765_625_000, 669_921_875]
    history = made.request("eth_feeHistory", ["0x2", "latest", [50]])
    assert [int(fee, 16) for fee in history["baseFeePerGas"]] == [765_625_000, 669_921_875, 586_181_641]
    assert refused(made, "eth_feeHistory", "0x0", "latest", []).code == -32602


def test_a_filter_mentioning_a_topic_wants_it_to_exist() -> None:
    made = chain()
    (faucet,) = made.request("eth_accounts", [])
    logger = "0x6001" + "5f5fa1" + "00"  # logs one topic while it is being created
    made.request("eth_sendTransaction", [{"from": faucet, "data": logger}])
    assert len(made.request("eth_getLogs", [{"topics": [None]}])) == 1
    assert made.request("eth_getLogs", [{"topics": [None, None]}]) == []
    assert "unknown block" in str(refused(made, "eth_getLogs", {"blockHash": "0x" + "00" * 32}))
    assert refused(made, "eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x0"}).code == -32602


def test_a_nonce_too_high_is_refused_rather_than_kept_waiting() -> None:
    made = chain()
    (faucet,) = made.request("eth_accounts", [])
    error = refused(made, "eth_sendTransaction", {"from": faucet, "to": ADDRESS, "nonce": "0x1"})
    assert "nonce too high: 1, next is 0" in str(error)


def test_a_set_balance_is_there_at_once_and_survives_later_blocks() -> None:
    made = chain()
    made.request("anvil_setBalance", [ADDRESS, "0x64"])
    assert made.request("eth_getBalance", [ADDRESS]) == "0x64"
    made.request("evm_mine", [])
    made.request("anvil_setBalance", [ADDRESS, "0x0"])
    assert made.request("eth_getBalance", [ADDRESS]) == "0x0"
    assert refused(made, "anvil_setBalance", ADDRESS, "0x1" + "00" * 32).code == -32602


@pytest.mark.parametrize(
    "request_object",
    [
        {"to": ADDRESS, "surprise": 1},
        {"to": ADDRESS, "chainId": "0x1"},
        {"to": ADDRESS, "gasPrice": "0x1", "maxFeePerGas": "0x1"},
        {"to": ADDRESS, "data": "0x01", "input": "0x02"},
        {"to": ADDRESS, "type": "0x3"},
        {"to": ADDRESS, "accessList": [{}]},
        {"to": ADDRESS, "value": "0x" + "f" * 65},
        {"to": ADDRESS, "value": -1},
        {"to": ADDRESS, "value": True},
        {"to": ADDRESS, "value": 1.5},
        {"to": ADDRESS, "value": "0x_1"},
        {"to": ADDRESS, "data": "0x" + "00" * (256 * 1024 + 1)},
        {"to": None, "data": "0x" + "00" * 49_153},
        {"from": ADDRESS, "to": ADDRESS, "value": "0x1"},
        {"to": ADDRESS, "gas": "0x5207"},
    ],
)
def test_calls_that_make_no_sense_are_refused(request_object: dict[str, Any]) -> None:
    made = chain()
    assert refused(made, "eth_call", request_object).code in (-32602, -32000)
    assert made.request("eth_call", [{"to": ADDRESS, "data": "0x01", "gas": "0x5300"}]) == "0x"


@pytest.mark.parametrize("method", [None, 5, ["eth_chainId"], "", "eth_chainId ", "__init__", "x" * 100_000])
def test_method_names_that_are_none_are_refused(method: Any) -> None:
    error = refused(chain(), method)
    assert error.code == -32601
    assert len(str(error)) < 200


def test_running_and_importing_leaves_the_recursion_limit_alone() -> None:
    """EELS raises it, and a raised limit turns deeply nested JSON into a crash of the whole process."""
    made = chain()
    before = sys.getrecursionlimit()
    deep = "0x5f5f5f5f5f305af100"
    (faucet,) = made.request("eth_accounts", [])
    made.request("eth_sendTransaction", [{"from": faucet, "data": deep, "gas": "0x4c4b40"}])
    assert sys.getrecursionlimit() == before
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(ValueError, match="nested too deeply"):
            bounded_json.loads("[" * 100_000)
        assert bounded_json.loads("[[1]]") == [[1]]
        assert sys.getrecursionlimit() == 100_000
    finally:
        sys.setrecursionlimit(before)


def test_what_web3_passes_becomes_plain_json() -> None:
    assert plain_json(({"a": b"\x01"}, [bytearray(b"\x02"), None, 3])) == [{"a": "0x01"}, ["0x02", None, 3]]
    nested: Any = []
    for _ in range(20):
        nested = [nested]
    with pytest.raises(ValueError, match="nested"):
        plain_json(nested)
