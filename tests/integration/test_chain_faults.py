"""Nodes that stall, limit, cut off and lie: each fault is survived, or named and believed in nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest

from galaxylearning.chain import evm
from galaxylearning.chain.agreement import Following
from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.endpoints import Endpoints
from galaxylearning.chain.evm import EvmLedger, connect
from galaxylearning.chain.follower import Follower
from galaxylearning.chain.http_link import HttpLink
from galaxylearning.chain.signer import KeySigner
from galaxylearning.chain.transport import Transport
from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import (
    AnswerRefused,
    ChainDisagreement,
    ConfigRefused,
    FinalityBroken,
    LedgerUnreachable,
)
from galaxylearning.ports import Block, Call, ChainLog, Event
from lying_node import LyingNode, Twist, cut_off, in_json, lying_node, silence, status

NOW = 1_800_000_000
FINALITY_BLOCKS = 3
Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, in bounded time."""

    async def bounded() -> Result:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(bounded())


def key(name: str) -> KeySigner:
    """The same account for the same name."""
    return KeySigner(keccak(name.encode()))


@dataclass
class Town:
    """A chain with contracts, and nodes that answer for it."""

    chain: EmbeddedChain
    deployment: Deployment
    nodes: list[LyingNode]
    stack: AsyncExitStack
    following: Following = Following(finality_blocks=FINALITY_BLOCKS)  # noqa: RUF009 - it is frozen

    async def ledger(self, *nodes: LyingNode, timeout_s: float = 5.0, **options: Any) -> EvmLedger:
        """A connection to these nodes (all, where none is named)."""
        found = await connect(
            [node.url for node in nodes or self.nodes],
            self.deployment,
            request_timeout_s=timeout_s,
            following=replace(self.following, **options.pop("following", {})),
            **options,
        )
        self.stack.push_async_callback(found.close)
        return found

    async def happen(self, *names: str) -> None:
        """An event for each name, in a block of its own."""
        ledger = await connect(self.chain, self.deployment)
        for name in names:
            await fund(self.chain, key(name).address, 10**18)
            await ledger.submit(Call("registry", "registerEvaluator", (keccak(name.encode()),)), key(name))

    def mine(self, blocks: int) -> None:
        """Empty blocks."""
        for _ in range(blocks):
            self.chain.request("evm_mine", [])

    async def truth(self) -> list[Event]:
        """All events there are."""
        return list((await (await connect(self.chain, self.deployment)).follow(0)).final)


@asynccontextmanager
async def town(nodes: int = 1) -> AsyncIterator[Town]:
    """Two events in the past, both final."""
    async with AsyncExitStack() as stack:
        chain = stack.enter_context(EmbeddedChain(None, now=lambda: NOW))
        await fund(chain, key("deployer").address, 10**19)
        deployment = await deploy(chain, key("deployer"), unbonding_s=1)
        made = [await stack.enter_async_context(lying_node(chain)) for _ in range(nodes)]
        found = Town(chain, deployment, made, stack)
        await found.happen("alice", "bob")
        found.mine(FINALITY_BLOCKS)
        yield found


def names(events: Sequence[Event]) -> list[str]:
    """Whose events these are."""
    known = {key(name).address: name for name in ("alice", "bob", "carol", "dan")}
    return [known[event.arguments["evaluator"]] for event in events]


def test_an_event_is_provisional_until_it_is_deep_enough() -> None:
    async def scenario() -> list[tuple[list[str], list[str]]]:
        async with town() as place:
            ledger = await place.ledger()
            seen = []
            for blocks in (0, 1, 1, 1):
                if not blocks:
                    await place.happen("carol")
                place.mine(blocks)
                log = await ledger.follow(0)
                assert log.head.number - log.final_block.number == FINALITY_BLOCKS
                seen.append((names(log.final), names(log.provisional)))
            return seen

    past = ["alice", "bob"]
    assert run(scenario()) == [(past, ["carol"])] * 3 + [([*past, "carol"], [])]


def test_of_a_long_past_only_the_end_is_held_and_the_rest_is_read_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evm, "KEPT_EVENTS", 2)

    async def scenario() -> None:
        async with town() as place:
            ledger = await place.ledger()
            await place.happen("carol", "dan", "carol", "dan", "alice")
            place.mine(FINALITY_BLOCKS)
            whole = (await ledger.follow(0)).final
            assert names(whole) == ["alice", "bob", "carol", "dan", "carol", "dan", "alice"]
            assert ledger._follower.final_events == whole[-2:]
            for event in whole:
                since = event.block.number
                wanted = [one for one in whole if one.block.number >= since]
                assert (await ledger.follow(since)).final == wanted
            await place.happen("bob")
            place.mine(FINALITY_BLOCKS)
            later = await ledger.follow(whole[-1].block.number + 1)
            assert names(later.final) == ["bob"]
            assert (await ledger.follow(0)).final == [*whole, *later.final]
            assert len(ledger._follower.final_events) == 3

    run(scenario())


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
            with pytest.raises(kind, match=words):
                await alone.follow(0)
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


# ---- endpoints that do not agree


def twins() -> tuple[EmbeddedChain, EmbeddedChain, Deployment]:
    """Two chains of one history so far."""
    chains = EmbeddedChain(None, now=lambda: NOW), EmbeddedChain(None, now=lambda: NOW)
    made = []
    for chain in chains:

        async def build(here: EmbeddedChain = chain) -> Deployment:
            await fund(here, key("deployer").address, 10**19)
            return await deploy(here, key("deployer"), unbonding_s=1)

        made.append(run(build()))
        for _ in range(FINALITY_BLOCKS):
            chain.request("evm_mine", [])
    assert made[0] == made[1]
    return *chains, made[0]


def test_nodes_with_two_histories_make_nothing_final_until_they_agree() -> None:
    first, second, deployment = twins()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(lying_node(chain)) for chain in (first, second)]
            place = Town(first, deployment, nodes, stack)
            ledger = await place.ledger()
            before = (await ledger.follow(0)).final_block
            await place.happen("alice")
            place.mine(FINALITY_BLOCKS + 2)
            second.request("evm_mine", [hex(NOW + 500)])
            for _ in range(FINALITY_BLOCKS + 3):
                second.request("evm_mine", [])
            log = await ledger.follow(0)
            assert log.hold is not None
            assert f"disagree on block {before.number + 3}" in log.hold or "disagree on block" in log.hold
            assert (log.final_block, names(log.final), names(log.provisional)) == (before, [], ["alice"])
            # The second node comes round.
            nodes[1].chain = first
            log = await ledger.follow(0)
            assert (log.hold, names(log.final)) == (None, ["alice"])

    run(scenario())


def test_a_node_that_lost_what_was_final_is_told_by_another_and_alone_it_stops_everything() -> None:
    first, second, deployment = twins()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(lying_node(first)) for _ in range(2)]
            place = Town(first, deployment, nodes, stack)
            alone, both = await place.ledger(nodes[0]), await place.ledger()
            await place.happen("alice")
            place.mine(FINALITY_BLOCKS)
            final = (await alone.follow(0)).final_block
            assert names((await both.follow(0)).final) == ["alice"]
            for _ in range(FINALITY_BLOCKS + 3):
                second.request("evm_mine", [hex(NOW + 1_000)])
            nodes[0].chain = second
            with pytest.raises(FinalityBroken, match=f"block {final.number} was final"):
                await alone.follow(0)
            with pytest.raises(FinalityBroken):
                await alone.submit(Call("jobs", "expire", (1,)), key("alice"))
            assert not await (await place.ledger(nodes[0])).has_block(final)
            with pytest.raises(ChainDisagreement, match="has lost block"):
                await both.follow(0)
            assert names((await both.follow(0)).final) == ["alice"]

    run(scenario())


@pytest.mark.parametrize(("needed", "is_final"), [(0, False), (1, True)])
def test_without_one_of_two_nodes_the_policy_says_what_becomes_final(needed: int, is_final: bool) -> None:
    async def scenario() -> ChainLog:
        async with town(2) as place:
            ledger = await place.ledger(following={"final_endpoints": needed})
            await ledger.follow(0)
            place.nodes[1].broken, place.nodes[1].is_broken_for_good = [status(500)], True
            await place.happen("carol", "dan")
            place.mine(FINALITY_BLOCKS - 1)
            return await ledger.follow(0)

    log = run(scenario())
    assert any("HTTP 500" in notice for notice in log.notices)
    if is_final:
        assert (names(log.final), log.hold) == (["alice", "bob", "carol"], None)
    else:
        assert names(log.final) == ["alice", "bob"]
        assert log.hold is not None
        assert "1 of the 2 endpoints" in log.hold
    assert names([*log.final, *log.provisional]) == ["alice", "bob", "carol", "dan"]


def test_a_node_that_lags_holds_up_what_is_final_and_nothing_else() -> None:
    async def scenario() -> None:
        async with town(2) as place:
            ledger = await place.ledger()
            before = await ledger.follow(0)
            height = before.head.number

            def behind(params: list[Any], block: Any) -> Any:
                return (
                    place.chain.request("eth_getBlockByNumber", [hex(height), False])
                    if (params[0] == "latest")
                    else block
                )

            place.nodes[1].twist("eth_getBlockByNumber", behind)
            await place.happen("carol")
            place.mine(FINALITY_BLOCKS)
            log = await ledger.follow(0)
            assert (log.final_block, log.hold) == (before.final_block, None)
            assert names(log.provisional) == ["carol"]
            place.nodes[1].twists.clear()
            place.mine(1)
            assert names((await ledger.follow(0)).final) == ["alice", "bob", "carol"]

    run(scenario())


# ---- finality as the node tells it, heads that stand still


def test_a_node_that_tells_no_finalized_block_is_named_with_what_to_do() -> None:
    async def scenario() -> None:
        chain = EmbeddedChain(None, chain_id=77, now=lambda: NOW)
        await fund(chain, key("deployer").address, 10**19)
        deployment = await deploy(chain, key("deployer"), unbonding_s=1)
        async with lying_node(chain) as node:
            told = await connect(node.url, deployment)
            assert (await told.follow(0)).final_block.number == 4
            node.twist("eth_getBlockByNumber", lambda p, block: None if p[0] == "finalized" else block)
            deaf = await connect(node.url, deployment)
            with pytest.raises(LedgerUnreachable):
                await deaf.follow(0)
            await told.close()
            await deaf.close()

    run(scenario())


def test_a_head_that_stands_still_is_told_of_and_no_longer_once_it_moves() -> None:
    async def scenario() -> None:
        chain = EmbeddedChain(None, chain_id=77, now=lambda: NOW)
        await fund(chain, key("deployer").address, 10**19)
        deployment = await deploy(chain, key("deployer"), unbonding_s=1)
        time = [0.0]
        async with lying_node(chain) as node:
            endpoints = Endpoints([node.url])
            follower = Follower(endpoints, deployment, Following(head_stall_s=60), clock=lambda: time[0])
            await follower.advance()
            for seconds, told in ((59.0, 0), (61.0, 1)):
                time[0] = seconds
                await follower.advance()
                assert len(follower.notices) == told
            assert "stands still at block 4" in follower.notices[0]
            chain.request("evm_mine", [])
            await follower.advance()
            assert follower.notices == ()
            await endpoints.close()

    run(scenario())


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
