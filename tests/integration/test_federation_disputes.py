"""Wrong answers about masked updates: the member that was dealt a bad share shows it, the liar cannot.

What is shown stands in the score table that the member commits to; nothing else is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import numpy as np
import pytest
from benchmarks.things import (
    MASKED_HIDDEN,
    MASKING,
    PLAN,
    LyingMember,
    compiled_job,
    evaluator_with,
)
from tests.integration.conftest import built_town
from tests.integration.test_federation_masked import is_over

from galaxylearning.crypto.ring import pack
from galaxylearning.crypto.seal import seal
from galaxylearning.messages.plan import Masking
from galaxylearning.messages.records import MaskedBody, ShownShare, decode, encode
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.asked import Phase as Asking
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.member import Member
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.masking import masking_plan
from galaxylearning.protocol.rounds import BAD_SHARES
from galaxylearning.simulation.stage import STAKE
from galaxylearning.units import Digest

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town

EVALUATORS = tuple(f"evaluator-{number}" for number in range(1, 6))
OWNERS = ("east", "north", "south", "west")
CERTAIN = Masking(threshold=1, faulty=1, minimum_sum=3, twin_projections=9)
"""Five answers, one of them wrong: it would take three liars to have an honest member found wrong."""


def cheating(*seats: int) -> type[DataOwnerNode]:
    """A data owner that deals some members a share of something else, in envelopes that open."""

    class Cheat(DataOwnerNode):
        def _masked_body(
            self,
            terms: Terms,
            parameters: int,
            job_id: int,
            round_index: int,
            model: Digest,
            update: Any,
            keys: Sequence[bytes],
        ) -> bytes:
            data = super()._masked_body(terms, parameters, job_id, round_index, model, update, keys)
            body = decode(data, MaskedBody, max_bytes=len(data))
            share = pack(masking_plan(terms, parameters).ring, np.ones((1, 2, 2048)))
            shares = list(body.shares)
            for seat in seats:
                kind = assembly.share_kind(seat)
                context = assembly.round_context(self.site, job_id, round_index, kind, self.site.address)
                shares[seat] = seal(share, [keys[seat]], context, entropy=self.site.entropy)
            return encode(msgspec.structs.replace(body, shares=tuple(shares)))

    return Cheat


class SelectiveLiar(Member):
    """Answers wrongly about the first data owner of a round's gate; its share says something else."""

    async def _words(self, *given: Any) -> bytes | None:
        words = await super()._words(*given)
        if words is None or given[1].phase is not Asking.GATE:
            return words
        # The lowest bit of a residue: it stays below its prime, or the answer would be malformed and unread.
        return bytes([words[0] ^ 1]) + words[1:]


class ForgingLiar(SelectiveLiar):
    """Shows keys that open nothing."""

    @property
    def shown(self) -> tuple[ShownShare, ...]:
        return tuple(msgspec.structs.replace(share, content_key=b"\5" * 32) for share in super().shown)


class Withholding(Member):
    """Is honest, and shows nothing."""

    @property
    def shown(self) -> tuple[ShownShare, ...]:
        return ()


class HidingLiar(SelectiveLiar, Withholding):
    """Shows nothing: it would speak against it."""


def play(
    town: Town,
    folder: Path,
    change: Callable[[Stage], None] = lambda _stage: None,
    look: Callable[[Stage], Any] | None = None,
    masking: Masking = CERTAIN,
) -> Outcome:
    """A masked federation to its end; ``look`` is awaited on the stage before it closes."""

    plan = msgspec.structs.replace(town.compiled.job.plan, rounds=1)

    async def main() -> Outcome:
        async with town.full_stage(folder, masking=masking, plan=plan) as stage:
            change(stage)
            await stage.play()
            if look is not None:
                await look(stage)
            return await stage.outcome()

    return anyio.run(main)


@pytest.fixture(scope="module")
def fair(masked_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same federation with nobody at fault, so that nobody shows a share."""

    async def look(stage: Stage) -> None:
        assert await shares_shown(stage) == []

    found = play(masked_town, tmp_path_factory.mktemp("fair"), look=look)
    assert answers(found) == []
    return found


def answers(found: Outcome) -> list[str]:
    assert (found.audit.verdict, found.audit.problems) == ("ok", ())
    return [finding.detail for finding in found.audit.findings if finding.check == "answers"]


async def shares_shown(stage: Stage) -> list[tuple[str, int]]:
    """Whose shares are shown in score tables, and by which seat."""
    seats = (await stage.state()).evaluators
    return sorted(
        (stage.name_of(share.data_owner), seats.index(stage.account(name)))
        for name, table in (await stage.tables()).items()
        for share in table.shown
    )


def test_a_member_that_was_dealt_a_bad_share_shows_it_and_is_not_named(
    masked_town: Town, fair: Outcome, tmp_path: Path
) -> None:
    async def look(stage: Stage) -> None:
        assert await shares_shown(stage) == [("north", 0)]

    found = play(
        masked_town, tmp_path / "stage", lambda stage: stage.add_owner("north", kind=cheating(0)), look
    )
    # One bad share is corrected: it harms nobody's pay, not even the dealer's.
    assert (found.model, found.totals, found.paid) == (fair.model, fair.totals, fair.paid)
    assert found.faulty == set()
    said = answers(found)
    assert len(said) == 1
    assert all("the data owner dealt it a share that does not belong" in one for one in said)


def test_dealers_who_each_cheat_a_member_are_left_out_and_shown_up(masked_town: Town, tmp_path: Path) -> None:
    async def look(stage: Stage) -> None:
        assert await shares_shown(stage) == [("east", 1), ("north", 0)]
        for table in (await stage.tables()).values():
            reasons = {stage.name_of(one.data_owner): one.reason for one in table.rounds[0].owners}
            # One of the two accusers might lie (f = 1): whom it accuses is kept, and its answer corrected.
            assert sorted(who for who in reasons if reasons[who] == BAD_SHARES) in (["east"], ["north"])

    def change(stage: Stage) -> None:
        stage.add_owner("north", kind=cheating(0))
        stage.add_owner("east", kind=cheating(1))

    found = play(masked_town, tmp_path / "stage", change, look)
    assert found.faulty == set()
    assert found.stakes == dict.fromkeys(EVALUATORS, STAKE)
    said = answers(found)
    assert len(said) == 2
    assert all("the data owner dealt it a share that does not belong" in one for one in said)


@pytest.mark.parametrize("kind", [SelectiveLiar, ForgingLiar, HidingLiar])
def test_a_member_that_lies_about_one_data_owner_is_named_and_loses_its_stake(
    masked_town: Town, fair: Outcome, tmp_path: Path, kind: type[Member]
) -> None:
    found = play(
        masked_town,
        tmp_path / "stage",
        lambda stage: stage.add_evaluator("evaluator-3", evaluator_with(kind)),
    )
    assert (found.model, found.totals, found.paid) == (fair.model, fair.totals, fair.paid)
    assert found.faulty == {"evaluator-3"}
    assert found.stakes == {name: 0 if name == "evaluator-3" else STAKE for name in EVALUATORS}
    said = answers(found)
    assert len(said) == 2
    assert "it has shown no share from which that follows" in said[0]
    assert "contradicts its own answer to the sum" in said[1]


def test_no_share_is_shown_where_as_many_as_may_collude_could_have_asked_for_it(
    masked_town: Town, tmp_path: Path
) -> None:
    async def look(stage: Stage) -> None:
        assert await shares_shown(stage) == []

    def change(stage: Stage) -> None:
        stage.add_owner("north", kind=cheating(0))
        stage.add_evaluator("evaluator-3", evaluator_with(SelectiveLiar))

    # Two liars of five could have a third member found wrong, and would need its share only.
    found = play(masked_town, tmp_path / "stage", change, look, msgspec.structs.replace(CERTAIN, threshold=2))
    assert found.faulty == set()
    assert answers(found) == []


def test_a_share_that_was_withheld_is_no_evidence_for_the_settlement_nor_for_the_audit(
    masked_town: Town, tmp_path: Path
) -> None:
    async def look(stage: Stage) -> None:
        assert await shares_shown(stage) == []

    def change(stage: Stage) -> None:
        stage.add_owner("north", kind=cheating(0))
        stage.add_evaluator("evaluator-1", evaluator_with(Withholding))

    found = play(masked_town, tmp_path / "stage", change, look)
    assert found.faulty == {"evaluator-1"}
    said = answers(found)
    assert len(said) == 1
    assert "it has shown no share from which that follows" in said[0]


def test_a_member_that_was_cheated_shows_its_share_after_a_restart_too(
    masked_town: Town, fair: Outcome, tmp_path: Path
) -> None:
    plan = msgspec.structs.replace(masked_town.compiled.job.plan, rounds=1)

    async def main() -> Outcome:
        async with masked_town.full_stage(tmp_path / "stage", masking=CERTAIN, plan=plan) as stage:
            stage.add_owner("north", kind=cheating(0))

            async def restart() -> None:
                if (await stage.state()).phase in (Phase.COMMITTING, Phase.REVEALING):
                    stage.nodes["evaluator-1"] = stage.makers["evaluator-1"]()

            await stage.play(between=restart)
            assert await shares_shown(stage) == [("north", 0)]
            return await stage.outcome()

    found = anyio.run(main)
    assert (found.faulty, found.paid) == (set(), fair.paid)
    assert len(answers(found)) == 1


class LyingOnce(LyingMember):
    """Lies about everybody at the gate of round 1, and nowhere else."""

    async def _words(self, *given: Any) -> bytes | None:
        asked = given[1]
        if (asked.round_index, asked.phase) == (1, Asking.GATE):
            return await super()._words(*given)
        return await Member._words(self, *given)


def test_a_share_that_a_member_shows_excuses_no_lie_in_another_round(tmp_path: Path) -> None:
    (tmp_path / "town").mkdir()
    six = (*EVALUATORS, "evaluator-6")
    plan = msgspec.structs.replace(PLAN, minimum_owners=3)
    compiled = compiled_job(MASKED_HIDDEN, plan=plan, privacy="masked", masking=MASKING)
    town = built_town(tmp_path / "town", compiled, six)

    async def main() -> Outcome:
        async with town.full_stage(tmp_path / "stage") as stage:
            seat = (await stage.state()).evaluators.index(stage.account("evaluator-3"))
            stage.add_owner("north", kind=cheating(seat))
            stage.add_evaluator("evaluator-3", evaluator_with(LyingOnce))
            over = stage.board().topic("round/0/value/sets")

            def is_on(name: str, _state: JobState) -> bool:
                # In round 1 five answer: two liars could have a third found wrong, so no share is shown.
                return name != "evaluator-6" or over not in stage.blobs.topics()

            await stage.play(is_on=is_on, until=is_over)
            assert await shares_shown(stage) == [("north", seat)]
            return await stage.outcome()

    assert anyio.run(main).faulty == {"evaluator-3"}
