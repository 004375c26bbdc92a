"""Nodes that stall, limit, cut off and lie: each fault is survived, or named and believed in nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bounded import run
from chain_nodes import key
from chain_town import FINALITY_BLOCKS, names, town
from galaxylearning.chain.deployment import Deployment
from galaxylearning.chain.evm import EvmLedger, connect
from galaxylearning.chain.http_link import HttpLink
from galaxylearning.chain.transport import Transport
from galaxylearning.errors import AnswerRefused, ChainDisagreement, ConfigRefused, LedgerUnreachable
from galaxylearning.ports import Block, ChainLog, Event
from lying_node import Twist, cut_off, in_json, silence, status

# ---- faults of the line


@pytest.mark.parametrize(
    ("faults", "asked"),
    [
        ([status(429, Retry_After="0")] * 2, 3),
        ([status(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")], 2),
        ([in_json({"jsonrpc": "2.0", "id": None, "error": {"code": -32005, "message": "rate"}})], 2),
    ],
    ids=["429", "503 with a date", "-32005"],
)
def test_a_node_that_asks_for_patience_is_asked_again(faults: list[Any], asked: int) -> None:
    async def scenario() -> tuple[Any, int]:
        async with town() as place:
            node = place.nodes[0]
            node.broken = list(faults)
            transport = Transport(node.url)
            try:
                return await transport.request("eth_chainId"), node.asked["eth_chainId"]
            finally:
                await transport.close()

    assert run(scenario()) == ("0x7a69", asked)


LINE_FAULTS: dict[str, tuple[Any, type[Exception], str]] = {
    "a rate limit that outlasts our patience": (status(429), LedgerUnreachable, "limits our rate"),
    "a wait longer than our patience": (status(429, Retry_After="999"), LedgerUnreachable, "limits our rate"),
    "an error of the server": (status(500, b"oops"), LedgerUnreachable, "HTTP 500"),
    "a page that moved": (status(302, Location="http://localhost:1/"), LedgerUnreachable, "HTTP 302"),
    "no JSON": (status(200, b"<html>"), AnswerRefused, "cut off or no JSON"),
    "JSON cut off": (status(200, b'{"jsonrpc": "2.0", "id": 1, "resu'), AnswerRefused, "cut off or no JSON"),
    "a response cut off": (cut_off, LedgerUnreachable, "cannot be reached"),
    "nested too deeply": (status(200, b"[" * 200_000), AnswerRefused, "cut off or no JSON"),
    "another request's answer": (in_json({"id": 10**9, "result": "0x1"}), AnswerRefused, "another request"),
    "no response object": (in_json([]), AnswerRefused, "not a JSON-RPC response"),
    "silence": (silence, LedgerUnreachable, "no answer within"),
}


@pytest.mark.parametrize("name", LINE_FAULTS)
def test_a_fault_of_the_line_is_named_and_another_node_is_asked(name: str) -> None:
    """A single node's fault is told; with a second node the work goes on, and the fault is told as well."""
    fault, kind, words = LINE_FAULTS[name]

    async def scenario() -> ChainLog:
        async with town(2) as place:
            timeout_s = 0.5 if fault is silence else 20.0
            alone = await place.ledger(place.nodes[0], timeout_s=timeout_s, patience_s=0.1)
            both = await place.ledger(timeout_s=timeout_s, patience_s=0.1, following={"final_endpoints": 1})
            await alone.follow(0)
            await place.happen("carol")
            place.mine(FINALITY_BLOCKS)
            place.nodes[0].broken, place.nodes[0].is_broken_for_good = [fault], True
            with pytest.raises(kind, match=words) as told:
                await alone.follow(0)
            assert place.nodes[0].url in str(told.value)
            return await patient(both)

    log = run(scenario())
    assert names(log.final) == ["alice", "bob", "carol"]
    assert any(words.split()[0] in notice or "patience" in notice for notice in log.notices), log.notices


async def patient(ledger: EvmLedger, *, looks: int = 4) -> ChainLog:
    """What is read after a few looks."""
    for _ in range(looks):
        try:
            log = await ledger.follow(0)
            if log.hold is None:
                return log
        except (LedgerUnreachable, ChainDisagreement):
            continue
    return await ledger.follow(0)


def test_an_answer_that_is_too_long_is_not_read_to_its_end() -> None:
    async def scenario() -> None:
        async with town() as place:
            link = HttpLink(place.nodes[0].url, 5.0, max_answer_bytes=1_000)
            place.nodes[0].broken = [status(200, b"[" + b"0," * 5_000_000 + b"0]")]
            with pytest.raises(AnswerRefused, match="over 1000 bytes"):
                await link.make_request("eth_chainId", [])
            assert (await link.make_request("eth_chainId", []))["result"] == "0x7a69"
            await link.disconnect()

    run(scenario())


def test_an_endpoint_of_another_chain_is_refused_at_the_start_and_named_later() -> None:
    async def scenario() -> None:
        async with town(2) as place:
            ledger = await place.ledger(place.nodes[0])
            await ledger.follow(0)
            place.nodes[0].twist("eth_chainId", lambda *_: "0x5")
            with pytest.raises(ChainDisagreement, match="on chain 5, not 31337"):
                await ledger.follow(0)
            for nodes in ([place.nodes[0]], [place.nodes[1], place.nodes[0]]):
                with pytest.raises(ConfigRefused, match="is on chain 5"):
                    await place.ledger(*nodes)

    run(scenario())


def test_a_url_with_a_secret_is_told_without_it() -> None:
    async def scenario() -> None:
        url = "http://user:hunter2@127.0.0.1:1/v3/0123456789abcdef?token=hunter2"
        ledger_of = connect([url], Deployment(5, key("a").address, key("b").address, key("c").address, 0))
        with pytest.raises(LedgerUnreachable) as refused:
            await ledger_of
        assert "hunter2" not in str(refused.value)

    run(scenario())
    assert Transport("http://user:hunter2@127.0.0.1:1/v3/0123?t=4").name == "http://127.0.0.1:1"


# ---- lies


def changed(**fields: Any) -> Twist:
    """Other fields in a block."""
    return lambda _, block: block and {**block, **fields}


def each_log(**fields: Any) -> Twist:
    """Other fields in every log."""
    return lambda _, logs: [{**log, **fields} for log in logs]


def of_receipts(change: Callable[[list[Any]], list[Any]]) -> Twist:
    """Other logs in every receipt."""
    return lambda _, receipts: receipts and [{**r, "logs": change(r["logs"])} for r in receipts]


OTHER = "0x" + "11" * 32
HASH = "does not have the hash"
LIES: dict[str, tuple[dict[str, Twist], str]] = {
    "a block of another time": ({"eth_getBlockByNumber": changed(timestamp="0x1")}, HASH),
    "a block of other randomness": ({"eth_getBlockByNumber": changed(mixHash=OTHER)}, HASH),
    "a block under another parent": ({"eth_getBlockByNumber": changed(parentHash=OTHER)}, HASH),
    "a block of another number": ({"eth_getBlockByNumber": changed(number="0x99")}, HASH),
    "a block of another hash": ({"eth_getBlockByNumber": changed(hash=OTHER)}, HASH),
    "a bloom filter without logs": ({"eth_getBlockByNumber": changed(logsBloom="0x" + "00" * 256)}, HASH),
    "a short bloom filter": ({"eth_getBlockByNumber": changed(logsBloom="0x00")}, "malformed"),
    "a block that is a string": ({"eth_getBlockByNumber": lambda *_: "0x"}, "malformed"),
    "no blocks": ({"eth_getBlockByNumber": lambda *_: None}, "a block is gone"),
    "a log left out": ({"eth_getLogs": lambda _, logs: logs[1:]}, "not the"),
    "a log twice": ({"eth_getLogs": lambda _, logs: logs + logs}, "two logs in one place"),
    "a log of another contract": ({"eth_getLogs": each_log(address="0x" + "11" * 20)}, "another contract"),
    "a log outside of the range": (
        {"eth_getLogs": each_log(blockNumber="0x99")},
        "outside of the asked range",
    ),
    "a log of another block": ({"eth_getLogs": each_log(blockHash=OTHER)}, "block"),
    "a log in another place": ({"eth_getLogs": each_log(logIndex="0x7")}, "not the"),
    "a log that was removed": ({"eth_getLogs": each_log(removed=True)}, "removed"),
    "a log of other data": ({"eth_getLogs": each_log(data=OTHER)}, "not the"),
    "a log of data that are none": ({"eth_getLogs": each_log(data="0x1")}, "malformed"),
    "a log of too few topics": (
        {"eth_getLogs": lambda _, logs: [{**log, "topics": log["topics"][:1]} for log in logs]},
        "no event|not the",
    ),
    "logs that are no list": ({"eth_getLogs": lambda *_: {"a": 1}}, "malformed"),
    "a log and its receipt left out": (
        {
            "eth_getLogs": lambda _, logs: logs[1:],
            "eth_getBlockReceipts": of_receipts(lambda logs: logs[1:]),
        },
        "are not those of its header|not the",
    ),
    "a log and its receipt of other data": (
        {
            "eth_getLogs": each_log(data=OTHER),
            "eth_getBlockReceipts": of_receipts(lambda logs: [{**log, "data": OTHER} for log in logs]),
        },
        "are not those of its header",
    ),
}


@pytest.mark.parametrize("when", ["past", "followed"])
@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named_and_not_believed(name: str, when: str) -> None:
    """Of a single node, and of the first of two: then the other is believed where they need not agree."""
    twists, words = LIES[name]
    if when == "past" and name == "a log left out":
        twists, words = {"eth_getLogs": lambda _, logs: logs[:0]}, ""

    async def scenario() -> None:
        async with town(2) as place:
            truth = await place.truth()
            liar = place.nodes[0]
            alone = await place.ledger(liar)
            both = await place.ledger()
            if when == "followed":
                await alone.follow(0)
                await both.follow(0)
                await place.happen("carol")
                place.mine(FINALITY_BLOCKS)
                truth = await place.truth()
            for method, twist in twists.items():
                liar.twist(method, twist)
            if words:
                with pytest.raises(LedgerUnreachable, match=words):
                    await alone.follow(0)
            # Two nodes that must agree: what the liar says never becomes final, and it is told of.
            assert await noticed(both, truth)
            liar.twists.clear()
            assert list((await patient(both)).final) == truth
            assert list((await patient(alone)).final) == truth

    run(scenario())


async def noticed(ledger: EvmLedger, truth: list[Event]) -> bool:
    """Whether a lie was told of within a few looks; what became final meanwhile is true."""
    for _ in range(4):
        try:
            log = await ledger.follow(0)
        except (LedgerUnreachable, ChainDisagreement):
            return True
        assert list(log.final) == truth[: len(log.final)]
        if log.hold is not None:
            return True
    return False


def test_the_randomness_of_a_block_is_its_own() -> None:
    """Asked for by hash, and held against it: of another block there is none to be had."""

    async def scenario() -> None:
        async with town() as place:
            ledger = await place.ledger()
            log = await ledger.follow(0)
            block = log.final[0].block
            true = place.chain.request("eth_getBlockByHash", ["0x" + block.hash.hex(), False])["mixHash"]
            assert "0x" + (await ledger.randomness(block)).hex() == true
            with pytest.raises(LedgerUnreachable):
                await ledger.randomness(Block(block.number, bytes(32)))
            place.nodes[0].twist("eth_getBlockByHash", changed(mixHash=OTHER))
            far = Block(
                1, bytes.fromhex(place.chain.request("eth_getBlockByNumber", ["0x1", False])["hash"][2:])
            )
            with pytest.raises(AnswerRefused, match=HASH):
                await ledger.randomness(far)

    run(scenario())
