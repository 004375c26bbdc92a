"""Both chains asked in JSON-RPC: whatever the embedded one does, anvil does, to the unit of gas."""

from __future__ import annotations

from typing import Any

import pytest
from ethereum_rlp import rlp
from ethereum_types.numeric import Uint

from chain_nodes import GAS_MONEY_WEI, Node, funded, key, signed
from galaxylearning.crypto.digest import keccak

# Runtime code by hand. COUNTER adds its first word of call data to slot 0, logs the sum under topic 7 and the
# caller, and returns it. REVERTER reverts with its call data. CLOCK returns number and timestamp.
COUNTER = "5f355f54015f555f545f5233600760205fa260205ff3"
REVERTER = "365f5f37365ffd"
CLOCK = "435f5242602052 60405ff3".replace(" ", "")


def call_on(address: str, data: str = "0x", **fields: Any) -> dict[str, Any]:
    """A transaction object."""
    return {"to": address, "data": data, **fields}


def add(number: int) -> str:
    """Call data for COUNTER."""
    return "0x" + number.to_bytes(32).hex()


def test_transactions_change_state_and_leave_receipts(node: Node) -> None:
    counter, signer = node.create(COUNTER), funded(node, "alice")
    before = int(node.rpc("eth_getBalance", signer.address, "latest"), 16)
    sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=counter, data=add(5)))
    receipt = node.receipt(sent)
    # 21,000 + 140 for call data + 2,100 and 20,000 for the slot + 1,381 for the log + 137 for the rest
    assert (receipt["status"], int(receipt["gasUsed"], 16)) == ("0x1", 44_758)
    (log,) = receipt["logs"]
    assert [int(topic, 16) for topic in log["topics"]] == [7, int(signer.address, 16)]
    assert int(log["data"], 16) == 5
    assert int(node.rpc("eth_call", call_on(counter, add(2)), "latest"), 16) == 7
    assert int(node.rpc("eth_getStorageAt", counter, "0x0", "latest"), 16) == 5
    assert int(node.rpc("eth_getTransactionCount", signer.address, "pending"), 16) == 1
    after = int(node.rpc("eth_getBalance", signer.address, "latest"), 16)
    assert before - after == int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    shown = node.rpc("eth_getTransactionByHash", sent)
    assert (shown["from"].lower(), shown["nonce"], shown["blockHash"]) == (
        signer.address.lower(),
        "0x0",
        receipt["blockHash"],
    )
    assert node.rpc("eth_getTransactionByHash", "0x" + "00" * 32) is None
    assert node.rpc("eth_getTransactionReceipt", "0x" + "00" * 32) is None


def test_blocks_are_a_chain_found_by_number_hash_and_tag(node: Node) -> None:
    for _ in range(3):
        node.tick()
        node.rpc("evm_mine")
    head = node.rpc("eth_getBlockByNumber", "latest", False)
    assert head == node.rpc("eth_getBlockByHash", head["hash"], False)
    assert head == node.rpc("eth_getBlockByNumber", head["number"], False)
    assert int(head["number"], 16) == int(node.rpc("eth_blockNumber"), 16) == 3
    parent = node.rpc("eth_getBlockByHash", head["parentHash"], True)
    assert int(parent["number"], 16) == 2
    assert node.rpc("eth_getBlockByNumber", "earliest", False)["number"] == "0x0"
    pending = node.rpc("eth_getBlockByNumber", "pending", False)
    assert (int(pending["number"], 16), pending["parentHash"]) == (4, head["hash"])
    assert node.rpc("eth_getBlockByNumber", "0x64", False) is None
    assert node.rpc("eth_getBlockByHash", "0x" + "00" * 32, False) is None
    assert node.refused("eth_getCode", node.faucet, "0x64").code != -32601


def test_headers_hash_to_the_blocks_hash(node: Node) -> None:
    """Any client that checks hashes accepts these blocks. Source: EIP-7685's header of 21 fields."""
    counter = node.create(COUNTER)
    node.receipt(node.rpc("eth_sendTransaction", call_on(counter, add(1), **{"from": node.faucet})))
    block = node.rpc("eth_getBlockByNumber", "latest", False)
    names = [
        "parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom",
        "difficulty", "number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce",
        "baseFeePerGas", "withdrawalsRoot", "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot",
        "requestsHash",
    ]  # fmt: skip
    numbers = {"difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed",
               "excessBlobGas"}  # fmt: skip
    fields = [Uint(int(block[n], 16)) if n in numbers else bytes.fromhex(block[n][2:]) for n in names]
    assert keccak(bytes(rlp.encode(fields))).hex() == block["hash"][2:]


def test_time_is_what_it_was_set_to(node: Node) -> None:
    clock = node.create(CLOCK)
    node.tick(500)
    node.rpc("evm_mine")
    head = node.rpc("eth_getBlockByNumber", "latest", False)
    assert int(head["timestamp"], 16) == node.time_s
    seen = node.rpc("eth_call", call_on(clock), "latest")
    assert (int(seen[2:66], 16), int(seen[66:], 16)) == (int(head["number"], 16), node.time_s)
    assert node.rpc("evm_increaseTime", 1_000) is not None
    seen = node.rpc("eth_call", call_on(clock), "pending")
    assert int(seen[2:66], 16) == int(head["number"], 16) + 1
    assert int(seen[66:], 16) >= node.time_s + 1_000
    assert node.refused("evm_setNextBlockTimestamp", 1).code == -32602


def test_logs_are_found_by_address_topic_and_block(node: Node) -> None:
    one, two = node.create(COUNTER), node.create(COUNTER)
    alice, bob = funded(node, "alice"), funded(node, "bob")
    places = []
    for signer, target in ((alice, one), (bob, one), (alice, two)):
        sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=target, data=add(1)))
        places.append(node.receipt(sent))
    seven = "0x" + (7).to_bytes(32).hex()
    by_alice, by_bob = ("0x" + int(s.address, 16).to_bytes(32).hex() for s in (alice, bob))
    everything = {"fromBlock": "earliest", "toBlock": "latest"}

    def found(**conditions: Any) -> list[int]:
        logs = node.rpc("eth_getLogs", {**everything, **conditions})
        hashes = [place["transactionHash"] for place in places]
        return [hashes.index(log["transactionHash"]) for log in logs]

    assert found() == [0, 1, 2]
    assert found(address=one) == [0, 1]
    assert found(address=[one, two]) == [0, 1, 2]
    assert found(topics=[seven]) == [0, 1, 2]
    assert found(topics=[None, by_alice]) == [0, 2]
    assert found(topics=[[seven, by_bob], [by_alice, by_bob]]) == [0, 1, 2]
    assert found(topics=[by_alice]) == []
    assert found(fromBlock=places[1]["blockNumber"]) == [1, 2]
    assert found(fromBlock=places[1]["blockNumber"], toBlock=places[1]["blockNumber"]) == [1]
    by_hash = node.rpc("eth_getLogs", {"blockHash": places[2]["blockHash"]})
    assert [log["transactionHash"] for log in by_hash] == [places[2]["transactionHash"]]


def test_reverts_carry_their_data(node: Node) -> None:
    reverter = node.create(REVERTER)
    data = "0xdeadbeef" + "11" * 32
    for method in ("eth_call", "eth_estimateGas"):
        refused = node.refused(method, call_on(reverter, data))
        assert (refused.code, refused.data) == (3, data)
    signer = funded(node, "alice")
    sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=reverter, data=data))
    receipt = node.receipt(sent)
    assert (receipt["status"], receipt["logs"]) == ("0x0", [])
    assert int(node.rpc("eth_getTransactionCount", signer.address, "latest"), 16) == 1


def test_estimated_gas_is_enough_and_a_unit_less_than_used_is_not(node: Node) -> None:
    counter, signer = node.create(COUNTER), funded(node, "alice")
    request = call_on(counter, add(3), **{"from": signer.address})
    estimate = int(node.rpc("eth_estimateGas", request), 16)
    sent = node.rpc("eth_sendRawTransaction", signed(node, signer, to=counter, data=add(3), gas=estimate))
    receipt = node.receipt(sent)
    assert receipt["status"] == "0x1"
    used = int(receipt["gasUsed"], 16)
    assert used <= estimate <= used * 1.1 + 3_000
    again = int(node.rpc("eth_estimateGas", request), 16)
    sent = node.rpc(
        "eth_sendRawTransaction", signed(node, signer, to=counter, data=add(3), gas=used - 17_100 - 1)
    )
    assert again >= used - 17_100
    assert node.receipt(sent)["status"] == "0x0"
    assert (
        int(
            node.rpc("eth_estimateGas", {"from": signer.address, "to": key("bob").address, "value": "0x1"}),
            16,
        )
        == 21_000
    )


def test_transactions_that_cannot_be_mined_are_refused_and_change_nothing(node: Node) -> None:
    counter, alice, poor = node.create(COUNTER), funded(node, "alice"), key("poor")
    good = signed(node, alice, to=counter, data=add(1))
    node.send(good)
    before = node.rpc("eth_getBalance", alice.address, "latest")
    height = node.rpc("eth_blockNumber")
    bad_signature = bytearray.fromhex(signed(node, alice, to=counter)[2:])
    bad_signature[-40] ^= 1  # inside r: another signer, without money, or none
    refused = {
        "nonce reused": signed(node, alice, to=counter, nonce=0),
        "same bytes again": good,
        "other chain": signed(node, alice, to=counter, chainId=1),
        "cannot pay": signed(node, poor, to=counter),
        "cannot pay the value": signed(node, alice, to=counter, value=GAS_MONEY_WEI),
        "over the block's gas": signed(node, alice, to=counter, gas=30_000_001),
        "too little gas to begin": signed(node, alice, to=counter, gas=20_999),
        "below the base fee": signed(node, alice, to=counter, maxFeePerGas=1, maxPriorityFeePerGas=1),
        "signature changed": "0x" + bad_signature.hex(),
        "cut short": good[:-2],
        "not hexadecimal": "0xzz",
        "empty": "0x",
        "no transaction": "0x02c0",
        "unknown type": "0x7f" + good[4:],
    }
    for reason, raw in refused.items():
        assert node.refused("eth_sendRawTransaction", raw).message, reason
    assert node.rpc("eth_getBalance", alice.address, "latest") == before
    assert node.rpc("eth_blockNumber") == height


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ["0x12", "latest"]),
        ("eth_getBalance", [5, "latest"]),
        ("eth_getBalance", []),
        ("eth_call", [{"to": "0x12"}, "latest"]),
        ("eth_call", ["nothing", "latest"]),
        ("eth_call", [{"to": "0x" + "11" * 20, "data": "0x123"}, "latest"]),
        ("eth_getBlockByNumber", ["newest", False]),
        ("eth_getBlockByHash", ["0x12", False]),
        ("eth_getLogs", [{"topics": ["0x12"]}]),
        ("eth_getLogs", [{"address": "0x12"}]),
        ("eth_getTransactionReceipt", ["0x12"]),
        ("eth_sendRawTransaction", []),
        ("eth_sendTransaction", [{"from": "0x" + "11" * 20, "to": "0x" + "11" * 20}]),
    ],
)
def test_malformed_parameters_are_refused(
    embedded: Node, anvil: Node, method: str, params: list[Any]
) -> None:
    for node in (embedded, anvil):
        assert node.refused(method, *params).code == -32602, node.name


def test_unknown_methods_are_refused(node: Node) -> None:
    assert node.refused("eth_unheardOf").code == -32601


PRECOMPILES = {
    "ecrecover": (1, "00" * 128),
    "sha256": (2, "61"),
    "ripemd160": (3, "61"),
    "identity": (4, "616263"),
    "modexp": (5, f"{1:064x}{1:064x}{1:064x}030507"),
    "bn254 add": (6, f"{1:064x}{2:064x}{1:064x}{2:064x}"),
    "bn254 multiply": (7, f"{1:064x}{2:064x}{5:064x}"),
    "bn254 pairing": (8, ""),
    "point evaluation": (10, "00" * 192),
    "bls12 g1 add": (11, "00" * 256),
    "bls12 g2 add": (13, "00" * 512),
    "bls12 pairing": (15, "00" * 384),
    "bls12 map to g1": (16, f"{1:0128x}"),
}


def test_precompiles_cost_and_answer_the_same_on_both(embedded: Node, anvil: Node) -> None:
    """A contract calls each with a million gas and returns what is left, success, and the answer."""
    answers: dict[str, list[str]] = {}
    for node in (embedded, anvil):
        for name, (number, data) in PRECOMPILES.items():
            # calldatacopy; staticcall(1e6, number, 0, size, 0, 0); return gas left, success, answer
            runtime = f"365f5f375f5f365f60{number:02x}620f4240fa5a5f526020523d5f60403e3d6040015ff3"
            address = node.create(runtime)
            answers.setdefault(name, []).append(
                node.rpc("eth_call", call_on(address, "0x" + data, gas="0x4c4b40"), "latest")
            )
    for name, (ours, theirs) in answers.items():
        assert ours == theirs, name
    assert (
        sum(int(ours[66:130], 16) for ours, _ in answers.values()) == len(PRECOMPILES) - 1
    )  # 0x0a refuses zeros


RUNTIMES = {
    "calls itself until the gas ends": "5f5f5f5f5f305af100",
    "creates a child that dies at once": "63 32ff 5f52 600260 1e 5f f0 00".replace(" ", ""),
    "creates the same child twice": "5f5f5f5ff5 5f5f5f5ff5 00".replace(" ", ""),
    "keeps and clears slots": "60015f5560026001555f5f555f60015500",
    "stores for one transaction": "60015f5d5f5c5f5500",
    "expands memory": "60016201 0000 52 00".replace(" ", ""),
    "copies memory": "60ff5f52 6020 5f 6040 5e 6040515f55 00".replace(" ", ""),
    "runs out of gas": "5b5f56",
    "jumps nowhere": "6003565b00",
    "underflows": "5000",
    "unknown operation": "0c",
    "hashes and logs": "60205f20 5f52 6005 60205f a1 00".replace(" ", ""),
    "asks about the block": "4143 42 44 45 46 48 4a 5f40 3a 32 33 34 47 5a 00".replace(" ", ""),
    "sends money to nobody yet": "5f5f5f5f6001 61beef 5af1 00".replace(" ", ""),
}  # fmt: skip


def test_odd_programs_use_the_same_gas_on_both(embedded: Node, anvil: Node) -> None:
    used: dict[str, list[tuple[str, str, int]]] = {}
    for node in (embedded, anvil):
        signer = funded(node, "alice")
        for name, runtime in RUNTIMES.items():
            target = node.create(runtime)
            raw = signed(node, signer, to=target, gas=2_000_000, value=1)
            receipt = node.send(raw)
            used.setdefault(name, []).append((receipt["status"], receipt["gasUsed"], len(receipt["logs"])))
    for name, (ours, theirs) in used.items():
        assert ours == theirs, name
    assert {status for (status, _, _), _ in used.values()} == {"0x0", "0x1"}
