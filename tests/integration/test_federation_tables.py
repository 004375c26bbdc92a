"""Score tables that are hard to make, hard to find or false: nobody honest loses stake or pay by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
import torch
from benchmarks.things import MASKED_HIDDEN, compiled_job
from torch import nn

from galaxylearning.contribution import saturated
from galaxylearning.errors import BlobMissing
from galaxylearning.messages.records import OwnerScore, ScoreTable
from galaxylearning.nodes.tables import settled_tree
from galaxylearning.protocol.job import Price
from galaxylearning.protocol.machine import Phase
from galaxylearning.simulation.stage import STAKE
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.units import Digest
from stage_acts import lying

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town


class Steep(nn.Module):
    """Gradients so large that what an update is worth fits no table."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, MASKED_HIDDEN), nn.ReLU(), nn.Linear(MASKED_HIDDEN, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e9 * self.layers(x))


def steep(town: Town) -> Town:
    """The town with a job about such a model."""
    job = town.compiled.job
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Steep()
    plan = msgspec.structs.replace(job.plan, steps=1, learning_rate=1e-9)
    compiled = compiled_job(model=model, plan=plan, privacy=job.privacy, masking=job.masking)
    return replace(town, compiled=compiled)


@pytest.mark.parametrize("mode", ["town", "masked_town"])
def test_a_model_too_steep_to_be_valued_costs_no_evaluator_its_stake(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str
) -> None:
    where = steep(request.getfixturevalue(mode))

    async def main() -> None:
        async with where.full_stage(tmp_path / "stage") as stage:
            await stage.play()
            found = await stage.outcome()
            table = next(iter((await stage.tables()).values()))
            values = [score.value for scores in table.rounds for score in scores.owners]
            assert saturated(2**64) in map(abs, values)
            assert found.faulty == set()
            assert set(found.stakes.values()) == {STAKE}
            assert (found.audit.verdict, found.audit.problems) == ("ok", ())

    anyio.run(main)


def of_another_cohort(table: ScoreTable) -> ScoreTable:
    """Leaves the last data owner out."""
    rounds = tuple(msgspec.structs.replace(one, owners=one.owners[:-1]) for one in table.rounds)
    return msgspec.structs.replace(table, rounds=rounds, totals=table.totals[:-1], twins=())


async def without(stage: Stage, *topics: str) -> MemoryBlobStore:
    """The store, but for what is listed under these topics of the job."""
    hidden, found = {stage.board().topic(name) for name in topics}, MemoryBlobStore()
    for topic in set(stage.blobs.topics()) - hidden:
        for digest in await stage.blobs.list(topic):
            await found.put(await stage.blobs.get(digest, max_bytes=1 << 24), topic=topic)
    return found


def test_who_hides_the_payout_table_keeps_nobody_from_its_pay(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-3", lying(of_another_cohort))
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            del stage.nodes["relayer"]
            state = await stage.play()
            assert (state.phase, state.paid) == (Phase.SETTLED, 0)
            site = stage.site("anybody")
            for hidden in ("payouts",), ("scores",):
                found = await settled_tree(replace(site, blobs=await without(stage, *hidden)), state)
                assert (found.root, found.total) == (state.payout_root, state.total)
            with pytest.raises(BlobMissing, match="settled root"):
                await settled_tree(replace(site, blobs=await without(stage, "payouts", "scores")), state)

            stage.blobs = await without(stage, "payouts")
            stage.add_relayer()
            assert (await stage.play()).paid == state.total > 0
            # What it takes to check the payouts by hand is gone all the same.
            problems = (await stage.audit(stage.sealing_key("evaluator-1"))).problems
            assert {problem.check for problem in problems} == {"payouts"}

    anyio.run(main)


def denying(table: ScoreTable) -> ScoreTable:
    """Says that every update was rejected, under true totals."""

    def denied(score: OwnerScore) -> OwnerScore:
        return msgspec.structs.replace(score, status="rejected", weight=0, value=0, standard_error=0)

    rounds = tuple(
        msgspec.structs.replace(one, owners=tuple(denied(score) for score in one.owners))
        for one in table.rounds
    )
    return msgspec.structs.replace(table, rounds=rounds)


FEE = 100 * 10**18


@pytest.mark.parametrize("silent", [(), ("evaluator-2",)])
def test_who_denies_that_updates_were_accepted_is_named_where_a_majority_contradicts_it(
    town: Town, tmp_path: Path, silent: tuple[str, ...]
) -> None:
    price = Price(bounty="1000", target_gain=0.8, participation_fee="100")

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage", price=price) as stage:
            stage.add_evaluator("evaluator-3", lying(denying))
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            for name in silent:
                del stage.nodes[name]
            await stage.play()
            found = await stage.outcome()
            if silent:
                # One word against another: the fees stay with the requester, and an audit says so.
                assert found.faulty == set()
                assert min(found.paid.values()) < FEE
                assert {problem.detail for problem in found.audit.problems} == {
                    "fees",
                    f"table of {stage.account('evaluator-3')}",
                }
            else:
                assert found.faulty == {"evaluator-3"}
                assert min(found.paid.values()) >= FEE
                assert found.audit.problems == ()

    anyio.run(main)


def test_a_majority_that_denies_it_is_shown_up_by_an_audit(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            for name in ("evaluator-2", "evaluator-3"):
                stage.add_evaluator(name, lying(denying))
            await stage.play()
            found = await stage.outcome()
            assert found.faulty == {"evaluator-1"}
            liars = [f"table of {stage.account(f'evaluator-{n}')}" for n in (2, 3)]
            assert {problem.detail for problem in found.audit.problems} == {"medians", *liars}

    anyio.run(main)


def swollen(table: ScoreTable) -> ScoreTable:
    """True totals under more rounds than there were, of which anybody who reads it has much to read."""
    rounds = [*table.rounds]
    rounds += [msgspec.structs.replace(rounds[-1], round_index=index) for index in range(2, 100)]
    return msgspec.structs.replace(table, rounds=tuple(rounds))


class Measuring(MemoryBlobStore):
    """Knows the largest blob that was read of it."""

    largest = 0

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        found = await super().get(digest, max_bytes=max_bytes)
        self.largest = max(self.largest, len(found))
        return found


def test_a_table_that_is_too_large_to_be_one_is_not_read(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-3", lying(swollen))
            await stage.play(until=lambda state: len(state.revealed) == 3)
            state, seen = await stage.state(), Measuring()
            large = dict(state.revealed)[stage.account("evaluator-3")]
            large_bytes = len(await stage.blobs.get(large, max_bytes=1 << 20))
            for topic in stage.blobs.topics():
                for digest in await stage.blobs.list(topic):
                    await seen.put(await stage.blobs.get(digest, max_bytes=1 << 24), topic=topic)
            stage.blobs = seen
            for name in ("evaluator-1", "evaluator-2", "relayer"):
                stage.nodes[name] = stage.makers[name]()
            del stage.nodes["evaluator-3"]
            await stage.play()
            assert (await stage.audit(stage.sealing_key("evaluator-1"))).problems == ()
            assert seen.largest < large_bytes
            found = await stage.outcome()
            assert found.faulty == {"evaluator-3"}
            assert found.audit.problems == found.public_audit.problems == ()
            assert sum(found.paid.values()) == found.state.total > 0

    anyio.run(main)
