"""Headers, bloom filters and receipt roots, against the Ethereum specifications and a chain."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest
from ethereum.prague import trie
from ethereum_rlp import rlp
from ethereum_types.bytes import Bytes
from ethereum_types.numeric import Uint

from galaxylearning.chain.deployment import deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.evm import KeySigner, connect
from galaxylearning.chain.headers import EMPTY_ROOT, Header, header_of, logs_of_receipts, ordered_root
from galaxylearning.errors import AnswerRefused
from galaxylearning.ports import Call

SIGNER = KeySigner(b"\5" * 32)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 15, 16, 17, 127, 128, 129, 300])
def test_the_root_of_a_list_is_that_of_the_specifications(count: int) -> None:
    rng = Random(count)  # noqa: S311
    values = [rng.randbytes(rng.choice((1, 5, 31, 32, 33, 600))) for _ in range(count)]
    oracle: Any = trie.Trie(secured=False, default=None)
    for index, value in enumerate(values):
        trie.trie_set(oracle, Bytes(rlp.encode(Uint(index))), Bytes(value))
    assert ordered_root(values) == bytes(trie.root(oracle))


def test_no_receipts_have_the_empty_root() -> None:
    # Known from every empty block of Ethereum.
    assert EMPTY_ROOT.hex() == "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"


@pytest.fixture(scope="module")
def blocks() -> list[tuple[Any, Any]]:
    """Blocks of a chain with their receipts."""
    import asyncio

    async def build(chain: EmbeddedChain) -> None:
        await fund(chain, SIGNER.address, 10**19)
        deployment = await deploy(chain, SIGNER, unbonding_s=1)
        ledger = await connect(chain, deployment)
        await ledger.submit(Call("registry", "registerEvaluator", (b"\1" * 32,)), SIGNER)

    with EmbeddedChain(None, now=lambda: 1_800_000_000) as chain:
        asyncio.run(build(chain))
        head = int(chain.request("eth_blockNumber", []), 16)
        found = []
        for number in range(head + 1):
            block = chain.request("eth_getBlockByNumber", [hex(number), False])
            found.append((block, chain.request("eth_getBlockReceipts", [block["hash"]])))
        assert chain.request("eth_getBlockReceipts", ["0x" + "00" * 32]) is None
        assert chain.request("eth_getBlockReceipts", ["latest"]) == found[-1][1]
    return found


def checked(block: Any) -> Header:
    """A header whose hash must be right."""
    return header_of(block, is_checked=True, where="node")


def test_headers_have_their_hashes_and_receipts_their_roots(blocks: list[tuple[Any, Any]]) -> None:
    for (parent, _), (block, receipts) in pairwise(blocks):
        header = checked(block)
        assert header.parent_hash == checked(parent).hash
        assert "0x" + header.prev_randao.hex() == block["mixHash"]
        assert logs_of_receipts(receipts, header, where="node") == [
            log for receipt in receipts for log in receipt["logs"]
        ]


def test_a_bloom_filter_never_hides_a_log(blocks: list[tuple[Any, Any]]) -> None:
    block, receipts = blocks[-1]
    (log,) = receipts[0]["logs"]
    header = checked(block)
    assert header.may_hold_logs_of(bytes.fromhex(log["address"][2:]))
    assert sum(header.may_hold_logs_of(bytes([n]) * 20) for n in range(256)) < 5
    assert not checked(blocks[0][0]).may_hold_logs_of(bytes.fromhex(log["address"][2:]))


@pytest.mark.parametrize(
    "field",
    ["parentHash", "stateRoot", "receiptsRoot", "logsBloom", "number", "gasUsed", "timestamp", "mixHash",
     "baseFeePerGas", "requestsHash", "extraData", "hash"],
)  # fmt: skip
def test_any_other_field_gives_another_hash(field: str, blocks: list[tuple[Any, Any]]) -> None:
    block = dict(blocks[-1][0])
    block[field] = block[field][:-1] + ("0" if block[field][-1] != "0" else "1")
    if field == "extraData":
        block[field] = "0x11"
    with pytest.raises(AnswerRefused, match="does not have the hash"):
        checked(block)
    assert header_of(block, is_checked=False, where="node").number >= 0


@pytest.mark.parametrize("answer", [None, [], "0x", {}, {"number": "0x1"}, {"number": 1}])
def test_what_is_no_header_is_refused(answer: Any) -> None:
    with pytest.raises(AnswerRefused, match="malformed"):
        checked(answer)


def test_receipts_of_another_block_are_refused(blocks: list[tuple[Any, Any]]) -> None:
    (block, receipts), (other, _) = blocks[-1], blocks[-2]
    with pytest.raises(AnswerRefused, match="not those of its header"):
        logs_of_receipts(receipts, checked(other), where="node")
    with pytest.raises(AnswerRefused, match="not those of its header"):
        logs_of_receipts([{**receipts[0], "status": "0x0"}], checked(block), where="node")
    with pytest.raises(AnswerRefused, match="malformed"):
        logs_of_receipts([{**receipts[0], "logs": 5}], checked(block), where="node")
    # Other kinds of transactions are encoded otherwise: nothing follows from theirs.
    assert logs_of_receipts([{**receipts[0], "type": "0x7e"}], checked(block), where="node") is None
