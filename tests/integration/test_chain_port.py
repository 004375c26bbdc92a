"""The ledger on both chains: events in order, nonces, nodes and calls that are not what they should be."""

from __future__ import annotations

import asyncio

import pytest

from chain_nodes import Node, key, ledger_on, run, signed
from galaxylearning.chain.evm import Deployment, connect
from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import ConfigRefused, LedgerError
from galaxylearning.ports import Call


def test_a_ledger_refuses_another_chain_and_an_empty_address(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node) as ledger:
            right = ledger.deployment
            for wrong, where in (
                (Deployment(1, right.token, right.registry, right.jobs, 0), "chain"),
                (Deployment(31337, right.token, right.registry, key("nobody").address, 0), "deployment.jobs"),
            ):
                with pytest.raises(ConfigRefused) as refused:
                    await connect(node.target, wrong)
                assert refused.value.where == where

    run(scenario())


def test_events_come_in_order_and_from_the_block_asked_for(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node, "alice", "bob") as ledger:
            blocks = []
            for name in ("alice", "bob"):
                call = Call("registry", "registerEvaluator", (keccak(name.encode()),))
                blocks.append((await ledger.submit(call, key(name))).block.number)
            events = (await ledger.follow(0)).final
            assert [event.arguments["evaluator"] for event in events] == [
                key("alice").address,
                key("bob").address,
            ]
            later = (await ledger.follow(blocks[1])).final
            assert [event.block.number for event in later] == [blocks[1]]
            after = await ledger.follow(blocks[1] + 1)
            assert (list(after.final), list(after.provisional)) == ([], [])
            assert after.head == after.final_block
            assert after.head.number >= blocks[1]

    run(scenario())


def test_many_submissions_of_one_account_at_once_all_arrive(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node, "alice") as ledger:
            signer = key("alice")
            calls = [Call("token", "mint", (signer.address, amount)) for amount in range(1, 11)]
            receipts = await asyncio.gather(*(ledger.submit(call, signer) for call in calls))
            assert len({receipt.transaction_hash for receipt in receipts}) == 10
            assert await ledger.read(Call("token", "balanceOf", (signer.address,))) == 55

    run(scenario())


def test_an_account_used_elsewhere_in_between_gets_its_nonce_right(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node, "alice") as ledger:
            signer = key("alice")
            await ledger.submit(Call("token", "mint", (signer.address, 1)), signer)
            node.send(signed(node, signer))
            await ledger.submit(Call("token", "mint", (signer.address, 1)), signer)
            assert await ledger.read(Call("token", "balanceOf", (signer.address,))) == 2

    run(scenario())


def test_a_poor_account_is_told_so(node: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(node) as ledger:
            with pytest.raises(LedgerError, match=r"(?i)insufficient funds|funds"):
                await ledger.submit(Call("token", "mint", (key("poor").address, 1)), key("poor"))

    run(scenario())


def test_wrong_arguments_are_the_callers_mistake(embedded: Node) -> None:
    async def scenario() -> None:
        async with ledger_on(embedded) as ledger:
            for call in (
                Call("jobs", "noSuchFunction"),
                Call("jobs", "cancel", ()),
                Call("jobs", "cancel", (-1,)),
                Call("token", "mint", ("not an address", 1)),
            ):
                with pytest.raises(ValueError, match=call.function):
                    await ledger.submit(call, key("deployer"))

    run(scenario())
