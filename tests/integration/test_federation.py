"""Whole federations: the honest one, the same one again, and those with an evaluator that does not behave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, JobRefused, PhaseError
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import requester
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.simulation.stage import STAKE, SUPPLY

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town

EVALUATORS = ("evaluator-1", "evaluator-2", "evaluator-3")
OWNERS = ("east", "north", "south", "west")

BOUNTY, FEE = 1000 * 10**18, 10 * 10**18


class LyingSeat(SeatedJob):
    """Says that the first data owner is worth ten times as much, and the others nothing."""

    async def score_table(self, state: JobState) -> ScoreTable:
        honest = await super().score_table(state)
        first, *others = honest.totals
        totals = (
            msgspec.structs.replace(first, value=10 * abs(first.value) + 1),
            *(msgspec.structs.replace(total, value=0) for total in others),
        )
        return msgspec.structs.replace(honest, totals=totals)


class SilentSeat(SeatedJob):
    """Commits to its scores and never reveals them."""

    async def turn(self, state: JobState) -> bool:
        return await super().turn(state) if state.phase is not Phase.REVEALING else False


class LyingEvaluator(EvaluatorNode):
    """An evaluator that favours one data owner."""

    def seat(self, job_id: int, terms: Terms) -> SeatedJob:
        return LyingSeat(self, self._view, job_id, terms)


class SilentEvaluator(EvaluatorNode):
    """An evaluator that keeps its scores to itself."""

    def seat(self, job_id: int, terms: Terms) -> SeatedJob:
        return SilentSeat(self, self._view, job_id, terms)


def run_with(
    town: Town,
    folder: Path,
    kinds: dict[str, type[EvaluatorNode] | None],
) -> Outcome:
    """The federation of ``undisturbed`` with other evaluators; None: one that never shows up."""

    async def main() -> Outcome:
        async with town.full_stage(folder) as stage:
            for name, kind in kinds.items():
                if kind is None:
                    del stage.nodes[name]
                else:
                    stage.add_evaluator(name, kind)
            await stage.play()
            return await stage.outcome()

    return anyio.run(main)


# ---- everybody behaves


def test_a_job_is_settled_and_every_unit_of_the_escrow_is_accounted_for(undisturbed: Outcome) -> None:
    state = undisturbed.state
    assert state.phase is Phase.SETTLED
    assert state.escrow == BOUNTY + 3 * FEE == state.paid + state.fees_paid + state.refunded
    assert state.paid == sum(undisturbed.paid.values()) == state.total
    assert state.fees_paid == 3 * FEE
    assert undisturbed.balances["jobs"] == 0
    assert undisturbed.balances["requester"] == SUPPLY - state.escrow + state.refunded
    for name in OWNERS:
        assert undisturbed.balances[name] == undisturbed.paid[name]
    for name in EVALUATORS:
        assert undisturbed.balances[name] == SUPPLY - STAKE + FEE
    assert undisturbed.stakes == dict.fromkeys(EVALUATORS, STAKE)


def test_pay_follows_value(undisturbed: Outcome) -> None:
    target = 0.8 * 2**40
    for name in OWNERS:
        expected = BOUNTY * undisturbed.totals[name] / target
        assert undisturbed.paid[name] == pytest.approx(expected, rel=1e-9)
    assert sorted(OWNERS, key=undisturbed.paid.__getitem__) == sorted(
        OWNERS, key=undisturbed.totals.__getitem__
    )


def test_data_owners_send_no_transaction_and_the_requester_is_gone_after_posting(
    undisturbed: Outcome,
) -> None:
    assert [undisturbed.transactions[name] for name in OWNERS] == [0, 0, 0, 0]
    # Mint, approve, post: all of it before the first data owner enrols.
    assert undisturbed.transactions["requester"] == 3
    assert undisturbed.transactions["evaluator-1"] > 0


def test_the_audit_recomputes_everything_or_what_is_public(undisturbed: Outcome) -> None:
    full, public = undisturbed.audit, undisturbed.public_audit
    assert (full.verdict, full.is_full, full.problems) == ("ok", True, ())
    assert (public.verdict, public.is_full, public.problems) == ("ok", False, ())
    details = [finding.detail for finding in full.findings]
    assert "3 of 3 tables are byte for byte the recomputed one" in details
    assert details.count("4 updates opened, gated and summed again: same model") == 2
    assert not any("byte for byte" in finding.detail for finding in public.findings)


def test_the_same_seed_gives_the_same_job_and_another_does_not(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    again = run_with(town, tmp_path / "again", {})
    assert (again.model, again.paid, again.totals) == (
        undisturbed.model,
        undisturbed.paid,
        undisturbed.totals,
    )
    assert again.state.payout_root == undisturbed.state.payout_root

    async def other_seed() -> Outcome:
        async with town.full_stage(tmp_path / "other", seed=2) as stage:
            await stage.play()
            return await stage.outcome()

    other = anyio.run(other_seed)
    assert other.model != undisturbed.model
    assert other.paid != undisturbed.paid
    assert other.audit.verdict == "ok"


def test_the_requester_fetches_the_model_once_it_is_settled(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            key = stage.sealing_key("requester")
            await stage.play(until=lambda state: state.phase is Phase.REVEALING)
            with pytest.raises(PhaseError, match="revealing, not settled"):
                await requester.collect(stage.site("requester"), stage.job_id, key)
            await stage.play()
            trained = await requester.collect(stage.site("requester"), stage.job_id, key)
            assert blake3_digest(trained) == (await stage.state()).model_digest
            with pytest.raises(JobRefused, match="its requester is 0x"):
                await requester.collect(
                    stage.site("evaluator-1"), stage.job_id, stage.sealing_key("evaluator-1")
                )
            with pytest.raises(BlobMissing, match="no released model opens"):
                await requester.collect(
                    stage.site("requester"), stage.job_id, stage.sealing_key("evaluator-1")
                )

    anyio.run(main)


# ---- one evaluator of three does not behave


@pytest.mark.parametrize("liar", EVALUATORS)
def test_an_evaluator_that_lies_about_scores_changes_no_payout_and_loses_its_stake(
    town: Town, undisturbed: Outcome, tmp_path: Path, liar: str
) -> None:
    found = run_with(town, tmp_path / "stage", {liar: LyingEvaluator})
    assert found.paid == undisturbed.paid
    assert found.model == undisturbed.model
    assert found.state.payout_root == undisturbed.state.payout_root
    assert found.faulty == {liar}
    assert found.stakes == {name: 0 if name == liar else STAKE for name in EVALUATORS}
    assert found.balances[liar] == SUPPLY - STAKE
    assert found.state.fees_paid == 2 * FEE
    assert found.state.escrow == found.state.paid + found.state.fees_paid + found.state.refunded
    assert found.audit.verdict == "ok"
    assert found.public_audit.verdict == "ok"


def test_an_evaluator_that_never_reveals_does_not_stop_settlement_and_loses_its_stake(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    found = run_with(town, tmp_path / "stage", {"evaluator-2": SilentEvaluator})
    assert found.paid == undisturbed.paid
    assert found.stakes == {"evaluator-1": STAKE, "evaluator-2": 0, "evaluator-3": STAKE}
    assert found.balances["evaluator-2"] == SUPPLY - STAKE
    assert len(found.state.revealed) == 2
    assert found.state.escrow == found.state.paid + found.state.fees_paid + found.state.refunded
    assert found.audit.verdict == "ok"


def test_two_liars_of_three_are_beyond_the_promise_but_the_audit_says_so(
    town: Town, undisturbed: Outcome, tmp_path: Path
) -> None:
    liars: dict[str, type[EvaluatorNode] | None] = {
        "evaluator-2": LyingEvaluator,
        "evaluator-3": LyingEvaluator,
    }
    found = run_with(town, tmp_path / "stage", liars)
    assert found.paid != undisturbed.paid
    assert found.faulty == {"evaluator-1"}
    assert found.audit.verdict == "failed"
    problems = {(problem.check, problem.detail) for problem in found.audit.problems}
    assert ("scores recomputed", "medians") in problems
    # Totals that do not follow from their rounds anybody can see.
    assert [problem.problem for problem in found.public_audit.problems] == [
        "its totals are not those of its rounds"
    ] * 2


def test_without_a_quorum_of_evaluators_the_escrow_goes_back(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.round_index == 1)
            del stage.nodes["evaluator-1"], stage.nodes["evaluator-2"]
            state = await stage.play()
            await _aborted(stage, state)

    anyio.run(main)


def test_without_enough_data_owners_the_escrow_goes_back(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            for name in OWNERS[1:]:
                del stage.nodes[name]
            await _aborted(stage, await stage.play())

    anyio.run(main)


async def _aborted(stage: Stage, state: JobState) -> None:
    assert state.phase is Phase.ABORTED
    assert (state.refunded, state.paid) == (state.escrow, 0)
    assert await stage.balance(state.requester) == SUPPLY
    assert await stage.balance(stage.ledger.address_of("jobs")) == 0
