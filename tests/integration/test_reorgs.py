"""A chain that takes blocks back: what one reader sees, and a few plays of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from benchmarks.reorgs.anvil import Chain, open_chain, running_anvil
from benchmarks.reorgs.play import Ending, Play, deeper_than_final
from benchmarks.reorgs.town import MASKED, SEALED, compiled_job, found_town, remembered_sealing

from galaxylearning.chain.deployment import deploy, fund
from galaxylearning.chain.evm import Following, connect
from galaxylearning.errors import FinalityBroken
from galaxylearning.ports import Call, ChainLog
from galaxylearning.simulation.stage import signer

DEPTH = 4
OFTEN = 0.08


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_anvil("--slots-in-an-epoch", "2") as found:
        yield found


def seen(log: ChainLog) -> tuple[list[str], list[str]]:
    """The names of the final and of the provisional events."""
    return [event.name for event in log.final], [event.name for event in log.provisional]


def test_a_block_that_is_taken_back_takes_its_events_along_and_the_outbox_brings_them_back(url: str) -> None:
    async def scenario() -> None:
        async with open_chain(url) as chain:
            for name in ("deployer", "alice"):
                await fund(url, signer(name).address, 10**19)
            deployment = await deploy(url, signer("deployer"), unbonding_s=1)
            ledger = await connect(url, deployment, following=Following(finality_blocks=DEPTH))
            reader = await connect(url, deployment, following=Following(finality_blocks=DEPTH))
            registered = Call("registry", "registerEvaluator", (b"\1" * 32,))
            receipt = await ledger.submit(registered, signer("alice"))
            for one in (ledger, reader):
                assert seen(await one.follow(0)) == ([], ["EvaluatorRegistered"])
            await chain.mine(1)
            await chain.reorganise(2)
            log = await reader.follow(0)
            assert (seen(log), log.rollbacks) == (([], []), 1)
            # Whoever sent it gives it to the chain again, as soon as it looks.
            assert (await ledger.follow(0)).rollbacks == 1
            log = await reader.follow(0)
            assert (seen(log), log.rollbacks) == (([], ["EvaluatorRegistered"]), 1)
            assert log.provisional[0].transaction_hash == receipt.transaction_hash
            assert log.provisional[0].block != receipt.block
            await chain.mine(DEPTH)
            for one in (ledger, reader):
                assert seen(await one.follow(0)) == (["EvaluatorRegistered"], [])
            # One block more than is provisional: both stop, for good, and say so.
            await chain.reorganise(DEPTH + 1)
            for one in (ledger, reader):
                for _ in range(2):
                    with pytest.raises(FinalityBroken, match="nothing is signed any more"):
                        await one.follow(0)
                with pytest.raises(FinalityBroken):
                    await one.submit(registered, signer("alice"))
                await one.close()

    anyio.run(scenario)


def test_what_the_node_calls_finalized_is_final(url: str) -> None:
    """Two epochs of two slots below the head, on a chain that is no development chain by its number."""

    async def scenario() -> None:
        with running_anvil("--slots-in-an-epoch", "2", "--chain-id", "77") as other:
            async with open_chain(other) as chain:
                await fund(other, signer("deployer").address, 10**19)
                deployment = await deploy(other, signer("deployer"), unbonding_s=1)
                ledger = await connect(other, deployment)
                await chain.mine(20)
                log = await ledger.follow(0)
                assert log.head.number - log.final_block.number == 4
                await chain.reorganise(4)
                assert (await ledger.follow(0)).final_block == log.final_block
                await ledger.close()

    anyio.run(scenario)


async def plays(seats: tuple[str, ...], seeds: tuple[int, ...], *, is_masked: bool) -> list[Ending]:
    """The endings of an undisturbed play and of one for each seed in a storm."""
    found = []
    with running_anvil() as place, remembered_sealing():
        async with open_chain(place) as chain:
            deployment = await found_town(place, seats)
            compiled = compiled_job(is_masked=is_masked)
            for seed, often in ((0, 0.0), *((seed, OFTEN) for seed in seeds)):
                snapshot = await chain.snapshot()
                found.append(await Play(chain, deployment, compiled, seats, seed, often).run())
                await chain.revert(snapshot)
    return found


def test_a_sealed_job_in_a_storm_ends_as_on_a_chain_that_stands_still() -> None:
    calm, stormy = anyio.run(lambda: plays(SEALED, (11,), is_masked=False))
    assert (calm.problems, stormy.problems) == ((), ())
    assert sum(calm.struck.values()) == 0
    assert sum(stormy.struck.values()) >= 10
    assert calm.facts["accepted"] == [3, 3]
    assert stormy.facts == calm.facts


def test_a_masked_job_in_a_storm_settles_and_nobody_answers_twice() -> None:
    calm, stormy = anyio.run(lambda: plays(MASKED, (12,), is_masked=True))
    assert (calm.problems, stormy.problems) == ((), ())
    assert sum(stormy.struck.values()) >= 10
    for name in ("cohort_root", "accepted", "collected_bytes"):
        assert stormy.facts[name] == calm.facts[name]


def test_when_more_goes_than_was_final_every_node_halts_and_signs_nothing_more() -> None:
    async def scenario(chain: Chain, place: str) -> tuple[int, int, list[str]]:
        deployment = await found_town(place, SEALED)
        play = Play(chain, deployment, compiled_job(is_masked=False), SEALED, 3, finality_blocks=6)
        return await deeper_than_final(play, 14, 20)

    async def main() -> tuple[int, int, list[str]]:
        with running_anvil() as place:
            async with open_chain(place) as chain:
                return await scenario(chain, place)

    halted, refused, problems = anyio.run(main)
    assert problems == []
    assert (halted, refused) == (7, 6)
