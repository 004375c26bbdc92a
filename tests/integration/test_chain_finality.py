"""When an event is final: depth, nodes that do not agree or have lost blocks, heads that stand still."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from bounded import run
from chain_nodes import key
from chain_town import FINALITY_BLOCKS, NOW, Town, names, town
from galaxylearning.chain import evm
from galaxylearning.chain.agreement import Following
from galaxylearning.chain.deployment import Deployment, deploy, fund
from galaxylearning.chain.embedded import EmbeddedChain
from galaxylearning.chain.endpoints import Endpoints
from galaxylearning.chain.evm import connect
from galaxylearning.chain.follower import Follower
from galaxylearning.errors import ChainDisagreement, FinalityBroken, LedgerUnreachable
from galaxylearning.ports import Call, ChainLog
from lying_node import lying_node, status

# ---- one node, and how deep a block lies


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


def test_finality_takes_from_the_newest_final_block_to_the_head() -> None:
    async def scenario() -> tuple[int, int]:
        async with town() as place:
            ledger, at_once = await place.ledger(), await connect(place.chain, place.deployment)
            for _ in range(2 * FINALITY_BLOCKS):
                place.chain.request("evm_increaseTime", [12])
                place.mine(1)
            return await ledger.finality_s(), await at_once.finality_s()

    assert run(scenario()) == (12 * FINALITY_BLOCKS, 0)


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
