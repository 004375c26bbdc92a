"""Audits of masked jobs: members that lie alike fit each other, and not the shares that others were dealt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import msgspec
import numpy as np
import pytest
from benchmarks.things import evaluator_with
from tests.integration.test_federation_disputes import cheating
from tests.integration.test_federation_heard import VICTIM, late_once
from tests.integration.test_federation_masked import spoiling

from galaxylearning.crypto.ring import DEGREE, pack, unpack
from galaxylearning.messages.records import MaskedBody
from galaxylearning.nodes.asked import Phase as AskedPhase
from galaxylearning.nodes.auditor import AuditReport
from galaxylearning.nodes.member import Member
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.units import Address

if TYPE_CHECKING:
    from tests.integration.conftest import Stage, Town

COLLUDERS = ("evaluator-1", "evaluator-2", "evaluator-3")
"""A quorum of five, and T + 1."""
HONEST = ("evaluator-4", "evaluator-5")


class Colluder(Member):
    """In ``phases`` it shifts the first row by ``shift``, and votes for its friends' answers alone."""

    phases: ClassVar[tuple[AskedPhase, ...]]
    shift: ClassVar[int] = 10**7
    friends: ClassVar[frozenset[Address]] = frozenset()

    async def take_part(self, *given: Any) -> None:
        openings, asked, updates, questions, state = given
        vars(openings)["liars"] = nobody
        if asked.phase not in self.phases:
            await super().take_part(*given)
            return
        await self._answer(openings, asked, updates, questions)
        found = await self._readable(openings, asked, state, ())
        chosen = tuple(sorted(digest for digest, who in found.items() if who in self.friends))
        if len(chosen) == len(self.friends) and asked.topic not in self._voted:
            await self._sign_set(asked, chosen, openings.answers.content_keys)

    async def _words(self, *given: Any) -> bytes | None:
        words = await super()._words(*given)
        asked, questions = given[1], given[3]
        if words is None or asked.phase not in self.phases:
            return words
        ring, width = self.plan.ring, questions[0].count if questions else DEGREE
        residues = unpack(ring, words, width=width, where="answer", is_absent_allowed=True)
        residues[0] = (residues[0] - self.shift) % np.array(ring.primes)[:, None]
        return pack(ring, residues)


class AtValue(Colluder):
    phases = (AskedPhase.VALUE,)


class AtGate(Colluder):
    phases, shift = (AskedPhase.GATE, AskedPhase.VALUE), 100


class AtSum(Colluder):
    phases = (AskedPhase.SUM,)


async def nobody(_tables: Any) -> dict[Address, str]:
    """Who lied, as colluders settle it."""
    return {}


def collude(stage: Stage, kind: type[Colluder]) -> None:
    kind.friends = frozenset(stage.account(name) for name in COLLUDERS)
    for name in COLLUDERS:
        stage.add_evaluator(name, evaluator_with(kind))


def shares(report: AuditReport) -> list[str]:
    """What does not follow from the seat's own shares."""
    return [one.problem or "" for one in report.problems if one.check == "own shares"]


@pytest.mark.parametrize(
    ("kind", "contradicted", "what"),
    [
        (AtValue, "round 1, value", "round 1, value: what was opened of 0x"),
        (AtGate, "round 1, gate", None),
        (AtSum, "round 1, gate", "round 1, sum: what was opened does"),
    ],
)
def test_an_audit_with_an_honest_seats_key_finds_what_more_than_t_members_shifted(
    masked_town: Town, tmp_path: Path, kind: type[Colluder], contradicted: str, what: str | None
) -> None:
    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            collude(stage, kind)
            state = await stage.play()
            assert (state.phase, state.faulty_seats) == (Phase.SETTLED, 0)
            for name in HONEST:
                report = await stage.audit(stage.sealing_key(name))
                assert report.verdict == "failed"
                # At the gate a data owner may have dealt this seat a bad share: that alone fails no audit.
                assert sum("round 1" in problem for problem in shares(report)) == (what is not None)
                assert what is None or sum(what in problem for problem in shares(report)) == 1
                # But each colluder's own answers contradict each other.
                said = [one.detail for one in report.findings if one.check == "answers"]
                for colluder in COLLUDERS:
                    who = stage.account(colluder)
                    about = f"{contradicted}: the answer of {who} contradicts its own answer to the sum"
                    assert about in said
                    assert f"seat of {who}" in [one.detail for one in report.problems]
            assert (await stage.audit()).verdict == "ok"

    anyio.run(main)


def test_a_round_whose_sum_was_not_opened_is_named(masked_town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            collude(stage, AtSum)
            await stage.play()
            assert (await stage.state()).total == 0
            rounds = await _rounds(stage)
            assert "their sum could not be opened, so none of them counts: same model" in rounds["round 1"]
            assert "summed and valued" not in rounds["round 1"]

    anyio.run(main)


def test_a_round_of_too_few_for_a_sum_is_named(masked_town: Town, tmp_path: Path) -> None:
    def spoil(body: MaskedBody) -> MaskedBody:
        return msgspec.structs.replace(body, shares=body.shares[::-1])

    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            for name in ("north", "east"):
                stage.add_owner(name, kind=spoiling(spoil))
            await stage.play()
            rounds = await _rounds(stage)
            assert "too few passed for a sum: same model" in rounds["round 1"]

    anyio.run(main)


async def _rounds(stage: Stage) -> dict[str, str]:
    report = await stage.audit(stage.sealing_key("evaluator-4"))
    return {one.check: one.detail for one in report.findings if one.check.startswith("round")}


@pytest.mark.parametrize("is_late", [False, True])
def test_a_data_owner_that_cheats_a_seat_that_was_late_once_fails_no_audit(
    masked_town: Town, tmp_path: Path, is_late: bool
) -> None:
    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            seat = (await stage.state()).evaluators.index(stage.account(VICTIM))
            stage.add_owner("east", kind=cheating(seat))
            await stage.play(is_on=(lambda name, _state: late_once(stage, name)) if is_late else None)
            for name in stage.evaluators:
                report = await stage.audit(stage.sealing_key(name))
                assert (report.verdict, report.problems) == ("ok", ())

    anyio.run(main)


def test_a_data_owner_that_cheats_two_seats_that_are_both_late_once_fails_no_audit(
    masked_town: Town, tmp_path: Path
) -> None:
    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            seats = (await stage.state()).evaluators
            stage.add_owner("east", kind=cheating(*(seats.index(stage.account(name)) for name in HONEST)))
            begun, over = (stage.board().topic(f"round/0/{one}/sets") for one in ("sum", "value"))

            def is_on(name: str, _state: JobState) -> bool:
                topics = stage.blobs.topics()
                return name not in HONEST or begun not in topics or over in topics

            await stage.play(is_on=is_on)
            for name in stage.evaluators:
                report = await stage.audit(stage.sealing_key(name))
                assert (report.verdict, report.problems) == ("ok", ())

    anyio.run(main)


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_data_owner_that_cheats_a_seat_does_not_fail_that_seats_audit(
    masked_town: Town, tmp_path: Path, is_gone: bool
) -> None:
    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            seats = (await stage.state()).evaluators
            cheated = next(name for name in stage.evaluators if stage.account(name) == seats[4])
            stage.add_owner("east", kind=cheating(4))
            await stage.play(until=lambda state: state.phase is Phase.TRAINING)
            if is_gone:
                del stage.nodes[cheated]
            await stage.play()
            for name in stage.evaluators:
                report = await stage.audit(stage.sealing_key(name))
                assert (report.verdict, report.problems) == ("ok", ())
                said = [one.detail for one in report.findings if one.check == "own shares"]
                if name == cheated:
                    assert [one[:13] for one in said] == ["round 1, gate", "round 2, gate"]
                    assert all(f"{stage.account('east')} dealt it a bad share, or" in one for one in said)
                else:
                    assert said == ["all that was opened follows from what this evaluator was dealt"]

    anyio.run(main)


def test_at_no_moment_of_an_honest_job_an_audit_fails(masked_town: Town, tmp_path: Path) -> None:
    async def main() -> None:
        async with masked_town.full_stage(tmp_path / "stage") as stage:
            said: set[str] = set()

            async def between() -> None:
                for key in (None, stage.sealing_key("evaluator-2")):
                    report = await stage.audit(key)
                    assert (report.verdict, report.problems) == ("ok", ())
                    said.update(one.detail for one in report.findings)

            await stage.play(between=between)
            assert "4 signed updates; they are still to be opened" in said

    anyio.run(main)
