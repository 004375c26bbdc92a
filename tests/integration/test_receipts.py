"""Receipts: their lines add up to the value, value and fee to the payout; what does not hold they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from tests.integration.test_audit_tables import no_rounds, rescored, totals, twins

from galaxylearning.cli.job_facts import is_over
from galaxylearning.contribution import UNEARNED, UNEARNED_LATER
from galaxylearning.errors import AuditFailed
from galaxylearning.messages import typed
from galaxylearning.messages.records import PayoutRow, PayoutTable, ScoreTable
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.nodes.receipt import receipts
from galaxylearning.protocol import calls
from galaxylearning.protocol.job import Price
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.settlement import payout_tree
from galaxylearning.units import Digest
from stage_acts import lying

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

NAT = 1 << 40


async def made(stage: Stage) -> dict[str, Mapping[str, Any]]:
    """The receipts of a settled job, by data owner."""
    found = await receipts(stage.site("passer-by"), stage.job_id)
    return {stage.name_of(who): receipt for who, receipt in found.items()}


def worth(receipt: Mapping[str, Any]) -> float:
    """What a receipt's lines add up to, in nats."""
    lines = receipt["rounds"]
    values = [line["value"] + line["handed_down"] for line in lines]
    gained = sum(value for value in values if value > 0) - sum(line["charge"] for line in lines)
    return float(sum(value for value in values if value < 0) + max(0.0, gained))


@pytest.mark.parametrize("privacy", ["sealed", "masked"])
def test_lines_add_up_to_the_value_and_value_and_fee_to_the_payout(
    town: Town, masked_town: Town, tmp_path: Path, privacy: str
) -> None:
    place = town if privacy == "sealed" else masked_town
    plan = msgspec.structs.replace(place.compiled.job.plan, rounds=7)
    price = Price(bounty="1000", target_gain=2.0, participation_fee="5")

    async def main() -> None:
        async with place.full_stage(tmp_path / "stage", plan=plan, price=price) as stage:
            await stage.play()
            found = await made(stage)
            lines = [line for receipt in found.values() for line in receipt["rounds"]]
            assert len(lines) == 28
            assert any(line["handed_down"] for line in lines)
            # In masked mode some updates stand against the hidden step in late rounds.
            assert any(line["charge"] for line in lines) == (privacy == "masked")
            for receipt in found.values():
                assert (receipt["verdict"], receipt["value_unit"]) == ("ok", "nats")
                if receipt["reason"] not in (UNEARNED, UNEARNED_LATER):
                    assert worth(receipt) == pytest.approx(receipt["value"], abs=1e-11)
                owed = {name: int(amount) for name, amount in receipt["owed"].items()}
                amount = int(receipt["payout"]["amount"])
                assert amount == owed["value"] + owed["participation_fee"]
                assert owed["participation_fee"] == 5 * 10**18
                tokens = 1000 * 10**18 * max(0, round(receipt["value"] * NAT)) / (2 * NAT)
                assert owed["value"] == pytest.approx(tokens, abs=10)

    anyio.run(main)


def test_claims_that_are_over_are_told_and_the_job_is_over(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            del stage.nodes["relayer"]
            await stage.play()
            payouts = [receipt["payout"] for receipt in (await made(stage)).values()]
            assert {(one["is_paid"], one["is_expired"]) for one in payouts} == {(False, False)}
            stage.time_s += 31 * 86_400
            await stage.site("requester").submit(calls.expire(stage.job_id))
            await stage.site("requester").submit(calls.refund(stage.job_id))
            payouts = [receipt["payout"] for receipt in (await made(stage)).values()]
            assert {(one["is_paid"], one["is_expired"]) for one in payouts} == {(False, True)}
            assert is_over(await stage.state())

    anyio.run(main)


@pytest.mark.parametrize("lie", [no_rounds, totals])
def test_tables_that_all_contradict_themselves_make_no_receipt(town: Town, tmp_path: Path, lie: Any) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            for name in stage.evaluators:
                stage.add_evaluator(name, lying(lie))
            await stage.play()
            with pytest.raises(AuditFailed, match="no revealed score table follows"):
                await made(stage)

    anyio.run(main)


def test_where_only_a_faulty_table_is_left_there_is_an_error_that_says_so(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-2", lying(totals))
            state = await stage.play()
            assert state.faulty == {stage.account("evaluator-2")}
            for seat, digest in state.revealed:
                if seat not in state.faulty:
                    stage.blobs._blobs.pop(digest, None)
            with pytest.raises(AuditFailed, match="no revealed score table follows"):
                await made(stage)

    anyio.run(main)


@pytest.mark.parametrize("liar", ["evaluator-1", "evaluator-2", "evaluator-3"])
def test_a_receipt_tells_what_most_evaluators_do(town: Town, tmp_path: Path, liar: str) -> None:
    """Whoever reveals first, and though a made-up table's totals follow from its rounds."""

    def lie(table: ScoreTable) -> ScoreTable:
        return twins(rescored(table, lambda _, one: msgspec.structs.replace(one, reason="made up")))

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator(liar, lying(lie))
            await stage.play()
            for receipt in (await made(stage)).values():
                assert receipt["twins"] == []
                assert {line["reason"] for line in receipt["rounds"]} == {""}

    anyio.run(main)


def test_a_settlement_that_pays_somebody_else_is_told_to_everybody(town: Town, tmp_path: Path) -> None:
    class DivertingSeat(SeatedJob):
        """All that is owed goes to one account."""

        async def _settlement(self, state: JobState) -> typed.Settlement:
            found = await super()._settlement(state)
            chain, jobs = self.site.ledger.chain_id, self.site.ledger.address_of("jobs")
            tree = payout_tree(chain, jobs, self.job_id, {friend[0]: found.total})
            row = PayoutRow(
                index=0, account=friend[0], amount=str(found.total), value=0, reason="is a friend"
            )
            table = PayoutTable(job_id=self.job_id, score_tables=(), rows=(row,), total=row.amount)
            await self.board.post("payouts", table)
            return typed.Settlement(
                self.job_id, Digest(tree.root), found.total, 1, found.model_digest, found.faulty_seats
            )

    class Diverting(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            return DivertingSeat(self, self._view, job_id, terms)

    friend = []

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            friend.append(stage.account("north"))
            for name in stage.evaluators:
                stage.add_evaluator(name, Diverting)
            await stage.play()
            assert (await stage.audit()).verdict == "failed"
            for receipt in (await made(stage)).values():
                owed = int(receipt["owed"]["value"])
                assert receipt["verdict"] == f"the score tables give a payout of {owed}; settled was another"

    anyio.run(main)
