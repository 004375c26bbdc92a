"""Score tables that all evaluators made up alike: what anybody can see in them, and what one key shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.messages.records import OwnerScore, RoundScores, ScoreTable, encode
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.nodes.receipt import receipts
from galaxylearning.nodes.tables import settled_tree
from galaxylearning.protocol import calls
from galaxylearning.protocol.job import Price
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.scoring import totals_of
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.units import Address
from stage_acts import Lie, lying

if TYPE_CHECKING:
    from tests.integration.conftest import Town

PRICE = Price(bounty="1000", target_gain=1.0, participation_fee="10")


def rescored(table: ScoreTable, change: Callable[[int, OwnerScore], OwnerScore]) -> ScoreTable:
    """Other scores, and the totals that follow from them."""
    rounds = tuple(
        msgspec.structs.replace(
            scores, owners=tuple(change(index, one) for index, one in enumerate(scores.owners))
        )
        for scores in table.rounds
    )
    return _of(table, rounds)


def _of(table: ScoreTable, rounds: tuple[RoundScores, ...]) -> ScoreTable:
    cohort = [Address(total.data_owner) for total in table.totals]
    return msgspec.structs.replace(table, rounds=rounds, totals=totals_of(rounds, cohort, novelty=True))


def no_rounds(table: ScoreTable) -> ScoreTable:
    return msgspec.structs.replace(table, rounds=())


def totals(table: ScoreTable) -> ScoreTable:
    found = [msgspec.structs.replace(total, value=1) for total in table.totals]
    return msgspec.structs.replace(table, totals=tuple(found))


def absent(table: ScoreTable) -> ScoreTable:
    """The first data owner sent nothing, so that it is owed no fee."""
    none = OwnerScore(table.totals[0].data_owner, "absent", "no update", 0, 0, 0)
    return rescored(table, lambda index, one: one if index else none)


def rejected(table: ScoreTable) -> ScoreTable:
    """The first data owner's updates were no good, so that it is owed no fee."""
    return rescored(
        table,
        lambda index, one: (
            one if index else OwnerScore(one.data_owner, "rejected", "sent noise", 0, 0, 0, one.cosine)
        ),
    )


def dearer(table: ScoreTable) -> ScoreTable:
    """The first data owner's updates were worth twice as much."""
    return rescored(
        table, lambda index, one: one if index else msgspec.structs.replace(one, value=2 * one.value)
    )


def twins(table: ScoreTable) -> ScoreTable:
    pair = tuple(total.data_owner for total in table.totals[:2])
    return msgspec.structs.replace(table, twins=(pair,))


def _reasoned(_: int, one: OwnerScore, reason: str) -> OwnerScore:
    return msgspec.structs.replace(one, reason=reason)


def reasoned(table: ScoreTable) -> ScoreTable:
    return rescored(table, partial(_reasoned, reason="fraud"))


def tenfold(table: ScoreTable) -> ScoreTable:
    found = [msgspec.structs.replace(total, value=10 * total.value) for total in table.totals]
    return msgspec.structs.replace(table, totals=tuple(found))


def digits(table: ScoreTable) -> ScoreTable:
    """What another machine may find."""
    return rescored(
        table, lambda _, one: msgspec.structs.replace(one, value=one.value + 3) if one.weight else one
    )


PUBLIC: list[tuple[Lie, str]] = [
    (no_rounds, "its rounds do not give the anchored models"),
    (totals, "its totals are not those of its rounds"),
    (absent, "absent in round 1, in which it has an anchored update"),
]
WITH_KEY: list[tuple[Lie, set[str]]] = [
    (rejected, {"its decisions are not those computed", "who took part, and is owed the fee"}),
    (dearer, {"in round 1 its value of 0x"}),
    (twins, {"its twins are not those computed"}),
]


@pytest.mark.parametrize(("lie", "said"), [(lie, {said}) for lie, said in PUBLIC] + WITH_KEY)
def test_what_all_evaluators_made_up_alike_is_found_out(
    town: Town, tmp_path: Path, lie: Lie, said: set[str]
) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage", price=PRICE) as stage:
            for name in stage.evaluators:
                stage.add_evaluator(name, lying(lie))
            state = await stage.play()
            assert (state.phase, state.faulty) == (Phase.SETTLED, frozenset())
            is_public = (lie, *said) in PUBLIC
            public = await stage.audit()
            assert public.verdict == ("failed" if is_public else "ok")
            report = public if is_public else await stage.audit(stage.sealing_key("evaluator-1"))
            check = "scores consistent" if is_public else "scores recomputed"
            problems = [one.problem or "" for one in report.problems if one.check == check]
            for each in said:
                assert any(each in problem for problem in problems), problems

    anyio.run(main)


def test_one_table_that_is_made_up_but_for_its_totals_is_named(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-2", lying(twins))
            state = await stage.play()
            assert state.faulty == {stage.account("evaluator-2")}
            assert (await stage.audit(stage.sealing_key("evaluator-1"))).problems == ()

    anyio.run(main)


def test_what_one_table_says_of_single_rounds_is_told_and_decides_nothing(town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-2", lying(reasoned))
            state = await stage.play()
            assert state.faulty == frozenset()
            report = await stage.audit(stage.sealing_key("evaluator-1"))
            assert report.problems == ()
            told = f"table of {stage.account('evaluator-2')}: its decisions are not those computed"
            assert any(one.detail.startswith(told) for one in report.findings)
            found = await receipts(stage.site("passer-by"), stage.job_id)
            assert not any("fraud" in str(receipt) for receipt in found.values())

    anyio.run(main)


def withholding(kept: list[bytes], lie: Lie) -> type[EvaluatorNode]:
    """An evaluator that reveals its table on chain and keeps the table itself, in ``kept``."""

    class Withholding(SeatedJob):
        async def score_table(self, state: JobState) -> ScoreTable:
            return lie(await super().score_table(state))

        async def _revealing(self, state: JobState) -> None:
            if self.site.address in state.committed and self.site.address not in dict(state.revealed):
                table, salt = await self._journalled_table(state)
                kept[:] = [table]
                reveal = calls.reveal_scores(self.job_id, blake3_digest(table), salt)
                await self.site.submit_if_first(reveal)

    class Withholder(EvaluatorNode):
        def seat(self, job_id: int, terms: Terms) -> SeatedJob:
            return Withholding(self, self._view, job_id, terms)

    return Withholder


def test_a_withheld_table_that_comes_late_changes_no_verdict_and_is_named(town: Town, tmp_path: Path) -> None:
    """Two honest tables differ in last digits; a lie is published once the job was settled without it."""
    kept: list[bytes] = []

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-2", withholding(kept, tenfold))
            stage.add_evaluator("evaluator-3", lying(digits))
            state = await stage.play()
            assert state.faulty == {stage.account("evaluator-2")}
            assert (await stage.audit()).verdict == "ok"
            await stage.board().put("scores", kept[0])
            report = await stage.audit()
            assert (report.verdict, report.problems) == ("ok", ())
            late = f"settled without the table of {stage.account('evaluator-2')}"
            assert any(late in one.detail for one in report.findings)
            found = await receipts(stage.site("passer-by"), stage.job_id)
            assert {receipt["verdict"] for receipt in found.values()} == {"ok"}

    anyio.run(main)


def test_a_table_whose_digest_was_ground_stands_in_no_receipt(town: Town, tmp_path: Path) -> None:
    """Two honest tables differ in last digits, so that each digest stands alone."""

    def ground(table: ScoreTable) -> ScoreTable:
        found, number = table, 0
        while found is table or blake3_digest(encode(found))[0] >= 4:
            reason, number = f"fraud {number}", number + 1
            found = rescored(table, partial(_reasoned, reason=reason))
        return found

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-2", lying(ground))
            stage.add_evaluator("evaluator-3", lying(digits))
            await stage.play()
            found = await receipts(stage.site("passer-by"), stage.job_id)
            assert not any("fraud" in str(receipt) for receipt in found.values())

    anyio.run(main)


def test_payouts_follow_though_a_withheld_table_came_late_and_nobody_lists_them(
    town: Town, tmp_path: Path
) -> None:
    kept: list[bytes] = []

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-2", withholding(kept, tenfold))
            stage.add_evaluator("evaluator-3", lying(digits))
            state = await stage.play(until=lambda state: state.phase is Phase.SETTLED)
            await stage.board().put("scores", kept[0])
            payouts = stage.board().topic("payouts")
            blobs = MemoryBlobStore()
            for topic in stage.blobs.topics():
                for digest in await stage.blobs.list(topic):
                    if topic != payouts:
                        await blobs.put(await stage.blobs.get(digest, max_bytes=1 << 28), topic=topic)
            found = await settled_tree(stage.site("passer-by", blobs=blobs), state)
            assert found.root == state.payout_root

    anyio.run(main)


def test_an_honest_table_that_came_too_late_is_named_as_what_it_may_be(town: Town, tmp_path: Path) -> None:
    kept: list[bytes] = []

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            stage.add_evaluator("evaluator-2", withholding(kept, digits))
            await stage.play()
            await stage.board().put("scores", kept[0])
            report = await stage.audit(stage.sealing_key("evaluator-1"))
            assert [one.detail for one in report.problems] == [f"seat of {stage.account('evaluator-2')}"]
            said = "a lie, or its table was published too late"
            assert said in (report.problems[0].problem or "")

    anyio.run(main)
