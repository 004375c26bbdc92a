"""What a relayer spends on others: a stranger that asks for much costs it a bounded part of a day's gas."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from galaxylearning.chain.deployment import deploy, fund
from galaxylearning.chain.evm import connect
from galaxylearning.errors import LedgerError, TransactionReverted
from galaxylearning.messages import typed
from galaxylearning.messages.records import SignedRegistration, SignedRevocation, encode
from galaxylearning.nodes.purse import DAY_S, Allowance
from galaxylearning.nodes.relayer import RelayerNode
from galaxylearning.nodes.site import registry_topic
from galaxylearning.ports import Call, Receipt, Signer
from galaxylearning.protocol import calls
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.simulation.stage import SUPPLY, signer
from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

REGISTERING_GAS = 120_000
"""Less than two registrations cost, and more than one."""


def registration(name: str, number: int) -> typed.DatasetRegistration:
    """One of many data sets of an account."""
    return typed.DatasetRegistration(
        signer(name).address, Digest(number.to_bytes(32, "big")), Digest(b"\1" * 32)
    )


async def ask(stage: Stage, name: str, *numbers: int) -> None:
    """Sign registrations and leave them for anybody to relay."""
    for number in numbers:
        message = registration(name, number)
        record = SignedRegistration.from_message(
            message, signature=signer(name).sign_digest(message.digest(stage.site(name).registry_domain()))
        )
        await stage.blobs.put(encode(record), topic=registry_topic(stage.ledger, "registrations"))


async def registered(stage: Stage) -> list[Address]:
    """Whose data sets the registry has."""
    return list((await stage.view()).datasets.values())


def relayer(stage: Stage, allowance: Allowance, name: str = "relayer") -> RelayerNode:
    return RelayerNode(stage.site(name), allowance=allowance)


def on_stage(town: Town, folder: Path, script: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        async with town.full_stage(folder) as stage:
            await script(stage)

    anyio.run(main)


def test_half_of_a_days_gas_is_all_that_strangers_get_of_it_and_a_restart_gives_no_more(
    town: Town, tmp_path: Path
) -> None:
    async def script(stage: Stage) -> None:
        allowance = Allowance(gas=2 * REGISTERING_GAS)
        for number in range(6):  # One account each: an account costs nothing.
            await ask(stage, f"stranger-{number}", number)
        node = relayer(stage, allowance)
        for _ in range(3):
            await node.turn()
        assert len(await registered(stage)) == 2
        (told,) = stage.told("relaying stops")
        assert "120,000 units of gas are spent on registrations and jobs of others" in told
        await relayer(stage, allowance).turn()
        assert (len(await registered(stage)), await stage.transactions("relayer")) == (2, 2)
        stage.time_s += DAY_S
        await node.turn()
        assert len(await registered(stage)) == 4
        # The day's own half is still there, for jobs in which this account has a part.
        await node._purse.require(is_own=True)

    on_stage(town, tmp_path / "stage", script)


def test_one_account_has_so_many_data_sets_relayed_a_day(town: Town, tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await ask(stage, "greedy", *range(5))
        await ask(stage, "modest", 7)
        node = relayer(stage, Allowance(registrations=2))
        for _ in range(2):
            await node.turn()
        whose = await registered(stage)
        assert (whose.count(signer("greedy").address), whose.count(signer("modest").address)) == (2, 1)
        (told,) = stage.told("relaying stops")
        assert f"{signer('greedy').address} had 2 data sets relayed" in told

        # A revocation counts as well.
        revoked = typed.DatasetRevocation(signer("modest").address, registration("modest", 7).dataset_id())
        signature = signer("modest").sign_digest(revoked.digest(stage.site("modest").registry_domain()))
        record = encode(SignedRevocation.from_message(revoked, signature=signature))
        await stage.blobs.put(record, topic=registry_topic(stage.ledger, "revocations"))
        await node.turn()
        assert signer("modest").address not in await registered(stage)
        await ask(stage, "modest", 8)
        await node.turn()
        assert await stage.transactions("relayer") == 4
        stage.time_s += DAY_S
        await node.turn()
        assert (await registered(stage)).count(signer("greedy").address) == 4

    on_stage(town, tmp_path / "stage", script)


def test_nothing_is_sent_from_an_account_with_few_coins(town: Town, tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await ask(stage, "stranger", 1)
        await fund(stage.chain, signer("poor").address, 10**17 - 1)
        node = relayer(stage, Allowance(), "poor")
        await node.turn()
        assert await registered(stage) == []
        assert "has fewer than 0.1 coins" in stage.told("relaying stops")[0]
        await fund(stage.chain, signer("poor").address, 10**18)
        await node.turn()
        assert await registered(stage) == [signer("stranger").address]

    on_stage(town, tmp_path / "stage", script)


def test_an_account_that_cannot_pay_for_gas_stops_nothing_but_relaying(town: Town, tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await ask(stage, "stranger", 1, 2)
        await fund(stage.chain, signer("poor").address, 1)
        node = relayer(stage, Allowance(least_wei=0), "poor")
        for _ in range(2):
            assert await node.turn() is False
        (told,) = stage.told("relaying stops")
        assert f"takes no transaction of {signer('poor').address}" in told
        with pytest.raises(LedgerError, match="insufficient funds"):
            await RelayerNode(stage.site("poor")).turn()
        await fund(stage.chain, signer("poor").address, 10**18)
        await node.turn()
        assert await registered(stage) == [signer("stranger").address] * 2

    on_stage(town, tmp_path / "stage", script)


def test_a_job_of_its_own_is_paid_though_strangers_have_had_their_half(town: Town, tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.play(until=lambda state: state.phase is Phase.TRAINING)
        del stage.nodes["relayer"]
        assert (await stage.play()).phase is Phase.SETTLED
        await ask(stage, "stranger", *range(9))
        node = relayer(stage, Allowance(gas=1_000_000, registrations=100), "evaluator-1")
        await node.turn()
        assert (await registered(stage)).count(signer("stranger").address) < 9
        state = await stage.state()
        assert state.paid == state.total > 0
        assert (state.fees_paid, state.refundable) == (state.fees_owed, 0)

    on_stage(town, tmp_path / "stage", script)


def test_a_job_of_others_waits_for_the_next_day_and_is_not_given_up(town: Town, tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.play(until=lambda state: state.phase is Phase.TRAINING)
        del stage.nodes["relayer"]
        await stage.play()
        node = relayer(stage, Allowance(gas=2))
        days = 0
        while (await stage.state()).paid < (await stage.state()).total:
            sent = await stage.transactions("relayer")
            for _ in range(2):
                await node.turn()
            assert await stage.transactions("relayer") == sent + 1
            stage.time_s += DAY_S
            days += 1
        assert days > 1

    on_stage(town, tmp_path / "stage", script)


def test_what_fails_in_its_block_counts(town: Town, tmp_path: Path) -> None:
    """Whoever is quicker with the same registration makes ours fail, for little more than it costs us."""

    class Outrun:
        def __init__(self, stage: Stage) -> None:
            self._ledger = stage.ledger

        def __getattr__(self, name: str) -> object:
            return getattr(self._ledger, name)

        async def submit(self, _call: Call, _by: Signer) -> Receipt:
            raise TransactionReverted("too late", reason="DatasetExists", gas_used=REGISTERING_GAS)

    async def script(stage: Stage) -> None:
        for number in range(3):
            await ask(stage, f"stranger-{number}", number)
        outrun = replace(stage.site("relayer"), ledger=Outrun(stage))  # type: ignore[arg-type]
        await RelayerNode(outrun, allowance=Allowance(gas=4 * REGISTERING_GAS)).turn()
        assert len(stage.told("relaying stops")) == 1
        assert len(stage.journals["relayer"].steps("relayed/")) == 2

    on_stage(town, tmp_path / "stage", script)


def test_no_gas_is_paid_for_a_job_in_a_token_of_its_requesters_making(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = calls.job_parameters

    burning: list[int] = []

    async def burn(_site: object, _board: object, _view: object, state: JobState, *_given: object) -> None:
        burning.append(state.job_id)

    async def script(stage: Stage) -> None:
        other = await connect(stage.chain, await deploy(stage.chain, signer("requester"), unbonding_s=1))
        made, jobs, me = other.address_of("token"), stage.ledger.address_of("jobs"), signer("requester")
        await other.submit(Call("token", "mint", (me.address, SUPPLY)), me)
        await other.submit(Call("token", "approve", (jobs, SUPPLY)), me)
        monkeypatch.setattr(calls, "job_parameters", lambda terms: (made, *honest(terms)[1:]))
        await stage.post(replace(town.compiled, job=replace(town.compiled.job, title="For nothing")))
        await stage.site("requester").submit(calls.cancel(stage.job_id))
        monkeypatch.setattr("galaxylearning.nodes.relayer.show_evidence", burn)
        await relayer(stage, Allowance()).turn()
        assert await stage.transactions("relayer") == 0
        assert burning
        assert stage.job_id not in burning
        assert "another token than" in stage.told("given up")[0]

    on_stage(town, tmp_path / "stage", script)
