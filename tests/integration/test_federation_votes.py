"""A committee with one liar that picks its moment, and jobs that nobody can be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import msgspec
import numpy as np
import pytest
import torch
from benchmarks.things import MASKED_HIDDEN, MASKING, PLAN, compiled_job, evaluator_with

from galaxylearning.crypto.ring import DEGREE, pack, unpack
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.messages import typed
from galaxylearning.messages.records import SignedAnswer, SignedAnswerSet, encode
from galaxylearning.nodes.asked import Asked, MaskedUpdates, answer_kind
from galaxylearning.nodes.asked import Phase as AskedPhase
from galaxylearning.nodes.member import PATIENCE_WHERE_TIGHT, Member
from galaxylearning.nodes.openings import Openings
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.job import CompiledJob, compile_job
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.secagg.questions import Questions
from galaxylearning.simulation.stage import STAKE, STEP_S
from stage_acts import expiring

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town

SEATS = 5


class Ambusher(Member):
    """In one phase it answers when the others' patience ends, with a lie, and proposes a set of T + 1."""

    phase: ClassVar[AskedPhase]

    async def take_part(
        self,
        openings: Openings,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
        state: JobState,
    ) -> None:
        if asked.phase is not self.phase:
            await super().take_part(openings, asked, updates, questions, state)
            return
        others = await self._readable(openings, asked, state, ())
        now = self.site.clock.monotonic_s()
        is_time = now - self._since.setdefault(asked.topic, now) >= PATIENCE_WHERE_TIGHT * STEP_S
        if asked.topic in self._posted or len(others) < SEATS - 1 or not is_time:
            return
        await self._answer(openings, asked, updates, questions)
        everybody = await self._readable(openings, asked, state, ())
        mine = next(digest for digest, who in everybody.items() if who == self.site.address)
        chosen = tuple(sorted([*sorted(others)[: self.plan.threshold], mine]))
        await self._sign_set(asked, chosen, openings.answers.content_keys)

    async def _words(self, *given: Any) -> bytes | None:
        words = await super()._words(*given)
        asked, questions = given[1], given[3]
        if words is None or asked.phase is not self.phase:
            return words
        ring, width = self.plan.ring, questions[0].count if questions else DEGREE
        residues = unpack(ring, words, width=width, where="answer", is_absent_allowed=True)
        residues[0] = (residues[0] + 1) % np.array(ring.primes)[:, None]
        return pack(ring, residues)


class SumAmbusher(Ambusher):
    phase = AskedPhase.SUM


class ValueAmbusher(Ambusher):
    phase = AskedPhase.VALUE


class TwoFaced(Member):
    """Answers the sum a second time once somebody has voted, and never votes itself."""

    answered: bytes | None = None

    async def _vote(self, openings: Openings, asked: Asked, state: JobState) -> None:
        if asked.phase is not AskedPhase.SUM:
            await super()._vote(openings, asked, state)
            return
        votes = await self.board.read(f"{asked.topic}/sets", SignedAnswerSet)
        again = f"{asked.topic} again"
        if not votes or again in self._posted:
            return
        # Sealed anew, so it is another answer; the words may as well be the same.
        assert self.answered is not None
        blob = await self.board.put(
            f"{asked.topic}/blobs", await self._sealed(asked, self.answered, answer_kind(asked.phase))
        )
        message = typed.MaskedAnswer(self.job_id, asked.round_index, int(asked.phase), asked.digest, blob)
        await self._sign(f"{asked.topic}/answers", SignedAnswer, message)
        self._posted.add(again)

    async def _words(self, *given: Any) -> bytes | None:
        words = await super()._words(*given)
        if given[1].phase is AskedPhase.SUM:
            self.answered = words
        return words


class Misplacer(Member):
    """Posts its answer to the sum under the gate's topic first."""

    async def _answer(self, openings: Openings, asked: Asked, *given: Any) -> None:
        await super()._answer(openings, asked, *given)
        found = await self.board.read(f"{asked.topic}/answers", SignedAnswer)
        for record in found.values():
            if asked.phase is AskedPhase.SUM and record.signer == self.site.address:
                await self.board.put(f"round/{asked.round_index}/gate/answers", encode(record))
                await self.board.put(f"round/{asked.round_index}/value/answers", encode(record))


class Parting(Member):
    """Seals its answer to the sum to two of the others only, and never votes on sums."""

    async def _sealed(self, asked: Asked, words: bytes, kind: str) -> bytes:
        seats = self.terms.evaluators
        if asked.phase is AskedPhase.SUM:
            stranger = (await self.board.put("keys", SealingKey(bytes(range(96))).public)).hex()
            others = [seat.address for seat in seats if seat.address != self.site.address]
            self.terms = msgspec.structs.replace(
                self.terms,
                evaluators=tuple(
                    msgspec.structs.replace(seat, sealing_key_blob=stranger)
                    if seat.address in others[2:]
                    else seat
                    for seat in seats
                ),
            )
        try:
            return await super()._sealed(asked, words, kind)
        finally:
            self.terms = msgspec.structs.replace(self.terms, evaluators=seats)

    async def _vote(self, openings: Openings, asked: Asked, state: JobState) -> None:
        if asked.phase is not AskedPhase.SUM:
            await super()._vote(openings, asked, state)


async def _played(town: Town, folder: Path, liar: str, kind: type[Member]) -> tuple[Outcome, list[int]]:
    async with town.full_stage(folder) as stage:
        stage.add_evaluator(liar, evaluator_with(kind))
        await stage.play()
        votes = await stage.board().read("round/0/sum/sets", SignedAnswerSet)
        return await stage.outcome(), sorted(len(vote.answers) for vote in votes.values())


def played(town: Town, folder: Path, liar: str, kind: type[Member]) -> tuple[Outcome, list[int]]:
    return anyio.run(partial(_played, town, folder, liar, kind))


@pytest.mark.parametrize("liar", ["evaluator-1", "evaluator-2", "evaluator-3"])
@pytest.mark.parametrize("kind", [SumAmbusher, ValueAmbusher])
def test_who_lies_last_and_proposes_few_answers_changes_nothing(
    masked_town: Town, masked: Outcome, tmp_path: Path, liar: str, kind: type[Member]
) -> None:
    found, votes = played(masked_town, tmp_path / "stage", liar, kind)
    assert (found.model, found.totals, found.paid) == (masked.model, masked.totals, masked.paid)
    assert found.audit.verdict == "ok"
    if kind is SumAmbusher:
        # It did propose them; all others voted for all answers, and so its lie was found.
        assert votes == [MASKING.threshold + 1, SEATS, SEATS, SEATS]
        assert [name for name, stake in found.stakes.items() if stake < STAKE] == [liar]


@pytest.mark.parametrize("kind", [TwoFaced, Misplacer])
def test_who_answers_twice_or_elsewhere_parts_no_votes(
    masked_town: Town, masked: Outcome, tmp_path: Path, kind: type[Member]
) -> None:
    found, votes = played(masked_town, tmp_path / "stage", "evaluator-5", kind)
    assert (found.model, found.totals, found.paid) == (masked.model, masked.totals, masked.paid)
    assert set(votes) == {SEATS}
    assert found.stakes == masked.stakes


@pytest.mark.parametrize("liar", ["evaluator-1", "evaluator-2", "evaluator-5"])
def test_who_seals_an_answer_to_some_parts_no_votes(
    masked_town: Town, masked: Outcome, tmp_path: Path, liar: str
) -> None:
    found, votes = played(masked_town, tmp_path / "stage", liar, Parting)
    assert (found.model, found.totals, found.paid) == (masked.model, masked.totals, masked.paid)
    assert len(votes) >= 3
    assert len(set(votes)) == 1
    assert found.stakes == masked.stakes
    assert found.audit.verdict == "ok"


def judged_by(rows: str) -> CompiledJob:
    """A masked job whose rows are so large that nothing can be trained, or valued, on them."""
    job = compiled_job(MASKED_HIDDEN, plan=_plan(), privacy="masked", masking=MASKING)
    inputs = job.test.inputs.astype(np.float32)
    if rows == "all":
        inputs = inputs * np.float32(1e30)
    else:
        places = Rows(np.arange(len(inputs), dtype=np.float32)[:, None], job.test.labels)
        paying = HiddenSet.split(places, seed=job.job.seed).paying.inputs[:, 0].astype(np.int64)
        inputs[paying] = inputs[paying] * (np.float32(3e38) / np.abs(inputs).max() / np.float32(1.01))
    return compile_job(job.job, Rows(inputs, job.test.labels))


def silent() -> CompiledJob:
    """A masked job with a model whose first layer never fires: only two biases have a gradient."""
    job = compiled_job(MASKED_HIDDEN, plan=_plan(), privacy="masked", masking=MASKING)
    with torch.no_grad():
        job.job.model.get_parameter("0.bias").fill_(-1000.0)
    return compile_job(job.job, job.test)


def _plan() -> Any:
    return msgspec.structs.replace(PLAN, minimum_owners=3)


def test_votes_posted_again_elsewhere_delay_no_round(masked_town: Town, tmp_path: Path) -> None:
    """Anybody may copy what members voted for at a gate under the topics of other phases."""

    async def anchored(folder: Path, *, is_copied: bool) -> int:
        async with masked_town.full_stage(folder) as stage:
            board = stage.board()

            async def copied() -> None:
                for digest in await stage.blobs.list(board.topic("round/0/gate/sets")):
                    vote = await stage.blobs.get(digest, max_bytes=1 << 20)
                    for phase in ("sum", "value"):
                        await board.put(f"round/0/{phase}/sets", vote)

            await stage.play(
                until=lambda state: state.round_index == 2, between=copied if is_copied else None
            )
            return stage.time_s

    quiet = anyio.run(partial(anchored, tmp_path / "quiet", is_copied=False))
    assert anyio.run(partial(anchored, tmp_path / "copied", is_copied=True)) == quiet


@pytest.mark.parametrize("which", ["all", "paying", "silent"])
@pytest.mark.parametrize("privacy", ["masked", "sealed"])
def test_a_requester_whose_job_cannot_be_judged_costs_no_evaluator_its_stake(
    masked_town: Town, tmp_path: Path, which: str, privacy: str
) -> None:
    compiled = silent() if which == "silent" else judged_by(which)
    if privacy == "sealed":
        compiled = replace(compiled, job=replace(compiled.job, privacy="sealed", masking=None))
    town = replace(masked_town, compiled=compiled)

    async def main() -> None:
        async with town.full_stage(tmp_path / "stage") as stage:
            await stage.play(between=expiring(stage))
            await _nothing_lost(stage)

    anyio.run(main)


async def _nothing_lost(stage: Stage) -> None:
    found = await stage.outcome()
    assert found.state.phase is Phase.SETTLED
    assert set(found.stakes.values()) == {STAKE}
    assert found.state.fees_paid == found.state.fees_owed > 0
    assert found.audit.verdict == "ok"


class Copying(Parting):
    """Also posts the others' answers among the keys that they show: signed by them, and no key is in it."""

    async def take_part(self, openings: Openings, asked: Asked, *given: Any) -> None:
        await super().take_part(openings, asked, *given)
        for record in (await self.board.read(f"{asked.topic}/answers", SignedAnswer)).values():
            await self.board.put(f"{asked.topic}/keys", encode(record))


@pytest.mark.parametrize("liar", ["evaluator-1", "evaluator-4"])
def test_answers_posted_again_among_shown_keys_hide_none(
    masked_town: Town, masked: Outcome, tmp_path: Path, liar: str
) -> None:
    found, votes = played(masked_town, tmp_path / "stage", liar, Copying)
    assert (found.model, found.totals, found.paid) == (masked.model, masked.totals, masked.paid)
    assert len(set(votes)) == 1
    assert found.stakes == masked.stakes
