"""Opening a masked job from what lies on the board: which answers count, and what they say.

Evaluators and auditors read the same here; :mod:`galaxylearning.nodes.member` is who answers and votes. Every
phase of a round is opened of one set of answers that a quorum signed, so that everybody opens the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.ring import DEGREE
from galaxylearning.crypto.seal import (
    SealingKey,
    sealed_bytes,
)
from galaxylearning.errors import (
    BlobDamaged,
    BlobMissing,
    MessageRefused,
    NoSharing,
    QuorumMissing,
    Refused,
)
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.records import (
    MaskedBody,
    SignedAnswer,
    SignedAnswerSet,
    decode,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.answers import Answers
from galaxylearning.nodes.asked import (
    RECORD_BYTES,
    Asked,
    MaskedUpdates,
    Phase,
    is_about,
)
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.disputes import Disputes, Verdict
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.tables import RevealedTables
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.cohort import AcceptedUpdates, Cohort
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.masked_round import BAD_SHARES, OUT_OF_RANGE, MaskedRound
from galaxylearning.protocol.outcomes import RoundOutcome
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.secagg.member import GateAsked, SumAsked, TwinsAsked, ValueAsked, contradicts_itself
from galaxylearning.secagg.opener import (
    NOISE,
    OpenedScalars,
    check_body,
    open_scalars,
    open_sum,
    owners_left_out,
)
from galaxylearning.secagg.questions import Questions, question_polynomials
from galaxylearning.units import Address, Digest, round_name

if TYPE_CHECKING:
    from galaxylearning.nodes.dealt import Witness
    from galaxylearning.nodes.member import Member

I64 = NDArray[np.int64]


class Openings:
    """Follows the openings of one masked job.

    With a ``member`` it takes part in them; a ``witness`` holds them against shares of its own.
    """

    def __init__(
        self,
        site: Site,
        board: Board,
        view: ChainView,
        terms: Terms,
        job: JobComputation,
        key: SealingKey,
        member: Member | None = None,
        witness: Witness | None = None,
    ) -> None:
        if job.masking is None:
            raise ValueError("this job is not masked")
        self.site, self.board, self.view, self.terms, self.job = site, board, view, terms, job
        self.key, self.member, self.witness, self.plan = key, member, witness, job.masking
        self.disputes = Disputes(site, terms, job.job_id, job.masking)
        self.contradictory: dict[Address, str] = {}
        """Evaluators whose answers about a round contradict their own answer to its sum, and where first."""
        self._said: dict[Phase, tuple[Questions, Mapping[int, bytes]]] = {}
        self._summed: tuple[I64, Mapping[int, bytes]] | None = None
        """What this round's products and its sum were opened of."""
        self.heard: frozenset[Address] | None = None
        """Whose answers the last phase was opened of."""
        self._doubted: Mapping[int, frozenset[int]] = {}
        """By seat: of whom (rows) it had no share, or a wrong answer, at this round's gate."""
        self._refuted: list[frozenset[int]] = []
        """Seats that cannot all have lied when they accused data owners: a sum failed that counted on it."""
        self._work: tuple[MaskedUpdates, MaskedRound] | None = None
        self._kept: list[MaskedUpdates] = []
        self.answers = Answers(site, board, terms, job.job_id, key, job.masking)
        self._bodies: tuple[int, list[MaskedBody]] = -1, []
        self._read: dict[Digest, MaskedBody] = {}
        """Bodies read so far, until all of a round are: what fails then is not begun from the start again."""

    # ---- rounds

    async def follow(
        self, anchor: ev.RoundAnchored, accepted: AcceptedUpdates, cohort: Cohort, state: JobState
    ) -> RoundOutcome | None:
        """The outcome of the next anchored round, or None while a phase waits for answers."""
        if self._work is None:
            updates = await self._masked_updates(anchor, accepted, cohort)
            beacon = await self.view.beacon(self.job.job_id, anchor.round_index)
            self._work = updates, self.job.begin_masked(updates.owners, beacon)
        updates, opening = self._work
        if opening.gated is None and not await self._gate(updates, opening, state):
            return None
        if opening.is_summed and not opening.has_sum and not await self._sum(updates, opening, state):
            return None
        values = None
        if (questions := opening.value_questions()) is not None:
            asked = ValueAsked(anchor.round_index, updates.name, questions.digest, questions.count)
            found = await self._scalars(Phase.VALUE, asked, questions, [updates], state)
            if found is None:
                return None
            values = found[0].values
        self._name_contradictory(updates)
        self._kept.append(updates)
        self._work = None
        return opening.finish(values, absent=updates.absent, malformed=updates.malformed)

    async def _gate(self, updates: MaskedUpdates, opening: MaskedRound, state: JobState) -> bool:
        questions = opening.gate_questions()
        if not updates.owners:
            opening.take_gate(np.zeros((0, questions.count), np.int64))
            return True
        asked = GateAsked(updates.round_index, updates.name, questions.digest, questions.count)
        found = await self._scalars(Phase.GATE, asked, questions, [updates], state)
        if found is None:
            return False
        opened, faults = found[0], np.zeros(len(updates.owners), np.int8)
        for row in np.flatnonzero(~opened.usable).tolist():
            faults[row] = OUT_OF_RANGE if opened.reasons[row] == NOISE else BAD_SHARES
        faults[list(owners_left_out(self.plan, opened, self._refuted))] = BAD_SHARES
        self._doubted = {seat: frozenset(rows) for seat, rows in opened.accused.items()}
        opening.take_gate(opened.values, faults)
        return True

    async def _sum(self, updates: MaskedUpdates, opening: MaskedRound, state: JobState) -> bool:
        gated = opening.gated
        if gated is None:
            return False
        question = SumAsked(updates.round_index, updates.name, gated.weights)
        asked = Asked(Phase.SUM, question, ((self.plan.share_bytes, DEGREE),))
        answers = await self._agreed_answers(asked, [updates], None, state)
        if answers is None:
            return False
        self._summed = gated.weights, answers
        masked = [body.masked for body in await self.bodies(updates)]
        counted = set(np.flatnonzero(gated.weights).tolist())
        # Who was dealt no share has no answer to a sum, and is expected again.
        excused = self._named(seat for seat, rows in self._doubted.items() if counted & rows)
        self.heard = self._named(answers) | (excused & (self.heard or frozenset()))
        try:
            opened = open_sum(self.plan, updates.seed, masked, gated.weights, answers)
        except QuorumMissing as error:
            # The set is agreed and will not change. That it is noise, data owners can bring about as well.
            if isinstance(error, NoSharing):
                self._refute(counted, answers)
            opening.drop_sum()
            return True
        opening.take_sum(opened.total)
        return True

    def _refute(self, counted: set[int], answers: Mapping[int, bytes]) -> None:
        """A sum failed over data owners of whom some are accused, by ``accusers`` that were not listened to.

        Had all of these lied, and dealt everybody who counts honest shares, f liars could not have spoilt it.
        """
        accusers = frozenset(seat for seat, rows in self._doubted.items() if counted & rows)
        silent = len(accusers - answers.keys())
        if accusers and len(answers) >= self.plan.quorum + 2 * (self.plan.faulty - silent):
            self._refuted.append(accusers)

    async def _masked_updates(
        self, anchor: ev.RoundAnchored, accepted: AcceptedUpdates, cohort: Cohort
    ) -> MaskedUpdates:
        """Fetch the masked updates of a round; what cannot be one is malformed."""
        by_owner = accepted.by_data_owner
        bodies: list[MaskedBody] = []
        readable: dict[Address, Digest] = {}
        malformed: dict[Address, str] = {}
        for who in sorted(by_owner, key=address_key):
            digest = by_owner[who].update.update_digest
            try:
                bodies.append(await self._body(digest, anchor.round_index, who))
                readable[who] = digest
            except BlobDamaged:
                raise
            except Refused as refused:
                malformed[who] = str(refused)[:200]
        self._bodies, self._read = (anchor.round_index, bodies), {}
        return MaskedUpdates(
            anchor.round_index,
            anchor.root,
            assembly.mask_seed(self.site, self.job.job_id, anchor.round_index, anchor.model_digest),
            tuple(readable),
            tuple(readable.values()),
            tuple(who for who in cohort.data_owners if who not in by_owner),
            malformed,
        )

    async def bodies(self, updates: MaskedUpdates) -> list[MaskedBody]:
        """The bodies of a round's updates, in their order; those of one round are held at a time."""
        if self._bodies[0] != updates.round_index:
            self._bodies = -1, []
            pairs = zip(updates.owners, updates.digests, strict=True)
            found = [await self._body(digest, updates.round_index, who) for who, digest in pairs]
            self._bodies, self._read = (updates.round_index, found), {}
        return self._bodies[1]

    async def body(self, updates: MaskedUpdates, row: int) -> MaskedBody:
        """One body of a round's updates."""
        if self._bodies[0] == updates.round_index:
            return self._bodies[1][row]
        return await self._body(updates.digests[row], updates.round_index, updates.owners[row])

    async def _body(self, digest: Digest, round_index: int, who: Address) -> MaskedBody:
        if digest not in self._read:
            self._read[digest] = await self._fetched(digest, round_index, who)
        return self._read[digest]

    async def _fetched(self, digest: Digest, round_index: int, who: Address) -> MaskedBody:
        plan = self.plan
        share_bytes = sealed_bytes(plan.share_bytes, 1)
        limit = plan.body_bytes + plan.members * share_bytes + RECORD_BYTES
        body = decode(await self.site.blobs.get(digest, max_bytes=limit), MaskedBody, max_bytes=limit)
        for name, given, wanted in (
            ("job_id", body.job_id, self.job.job_id),
            ("round_index", body.round_index, round_index),
            ("data_owner", body.data_owner, who),
            ("masked", len(body.masked), plan.body_bytes),
            ("shares", [len(share) for share in body.shares], [share_bytes] * plan.members),
        ):
            if given != wanted:
                raise MessageRefused(f"{given}; {wanted} allowed", where=f"MaskedBody.{name}")
        check_body(plan, body.masked, where="MaskedBody.masked")
        return body

    # ---- twins

    async def take_twins(self, state: JobState) -> bool:
        """Open the projections by which twins are searched for; False while answers are waited for."""
        if not self.plan.twin_projections or all(outcome.sent is not None for outcome in self.job.outcomes):
            return True
        beacon = await self.view.beacon(self.job.job_id, len(self._kept) - 1)
        rounds = self._kept
        asked_of = [updates for updates in rounds if updates.owners]
        questions = [self.job.twin_questions(beacon)] * len(asked_of)
        if not questions:
            return True
        asked = TwinsAsked(
            rounds[-1].round_index,
            blake3_digest(b"".join(updates.name for updates in asked_of)),
            blake3_digest(b"".join(each.digest for each in questions)),
            max(each.count for each in questions),
        )
        found = await self._scalars(Phase.TWINS, asked, questions, asked_of, state)
        if found is None:
            return False
        for updates, opened in zip(asked_of, found, strict=True):
            good = np.flatnonzero(opened.usable)
            owners = tuple(updates.owners[i] for i in good.tolist())
            self.job.take_twins(updates.round_index, owners, opened.values[good])
        for updates in rounds:
            if not updates.owners:
                self.job.take_twins(updates.round_index, (), np.zeros((0, questions[0].count), np.int64))
        return True

    # ---- answers

    async def _scalars(
        self,
        phase: Phase,
        asked: GateAsked | ValueAsked | TwinsAsked,
        questions: Questions | Sequence[Questions],
        updates: Sequence[MaskedUpdates],
        state: JobState,
    ) -> list[OpenedScalars] | None:
        """The opened products of each of ``updates``; None while answers are waited for."""
        each = list(questions) if isinstance(questions, Sequence) else [questions]
        plan = self.plan
        sizes = [
            plan.scalars_bytes(len(part.owners), one.count) for part, one in zip(updates, each, strict=True)
        ]
        parts = tuple((size, one.count) for size, one in zip(sizes, each, strict=True))
        answers = await self._agreed_answers(Asked(phase, asked, parts), updates, each, state)
        if answers is None:
            return None
        opened, at = [], 0
        for part, one, size in zip(updates, each, sizes, strict=True):
            words = {seat: answer[at : at + size] for seat, answer in answers.items()}
            masked = [body.masked for body in await self.bodies(part)]
            opened.append(open_scalars(plan, one, masked, words))
            where = f"{round_name(part.round_index)}, {phase.name.lower()}"
            disputes = self.disputes.take(opened[-1], words, part, one, where)
            if self.member is not None:
                await self.member.answer_for(self, disputes)
            at += size
        if phase is not Phase.TWINS:
            self._said[phase] = each[0], answers
        return opened

    async def verdicts(self, tables: RevealedTables) -> tuple[Verdict, ...]:
        """Whose fault the wrong answers are that certainly are somebody's, by what the tables show."""
        return await self.disputes.verdicts(tables, self.body)

    async def liars(self, tables: RevealedTables) -> dict[Address, str]:
        """Evaluators that lied about masked updates, and where first.

        Those whose answers contradict each other, and those who showed no share from which a wrong answer
        follows. No honest one is, whatever it was dealt.
        """
        found = dict(self.contradictory)
        for verdict in await self.verdicts(tables):
            if verdict.fault == "member":
                found.setdefault(verdict.evaluator, verdict.where)
        return found

    def _name_contradictory(self, updates: MaskedUpdates) -> None:
        """Hold what each member said of this round's updates against its own answer to the sum."""
        if self._summed is not None:
            weights, sums = self._summed
            for phase, (questions, answers) in self._said.items():
                polynomials = question_polynomials(self.plan.ring, updates.seed, questions)
                for seat in sorted(answers.keys() & sums.keys()):
                    if contradicts_itself(self.plan, polynomials, weights, answers[seat], sums[seat]):
                        who = Address(self.terms.evaluators[seat].address)
                        where = f"{round_name(updates.round_index)}, {phase.name.lower()}"
                        self.contradictory.setdefault(who, where)
        self._said, self._summed = {}, None

    def _named(self, seats: Iterable[int]) -> frozenset[Address]:
        return frozenset(Address(self.terms.evaluators[seat].address) for seat in seats)

    async def _agreed_answers(
        self,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
        state: JobState,
    ) -> Mapping[int, bytes] | None:
        """Answers by seat, of the set that a quorum signed; None while there is none."""
        if self.member is not None:
            self.member.admit(asked.question)
        found = await self._agreed(asked, state)
        if found is None and self.member is not None:
            await self.member.take_part(self, asked, updates, questions, state)
            found = await self._agreed(asked, state)
        if found is not None:
            if self.witness is not None:
                await self.witness.hold(self, asked, updates, questions, found)
            self.answers.forget()
            if asked.phase is not Phase.SUM:
                self.heard = self._named(found)
        return found

    async def _agreed(self, asked: Asked, state: JobState) -> Mapping[int, bytes] | None:
        votes = await self.board.votes(f"{asked.topic}/sets", SignedAnswerSet, state.seats)
        for group in votes.values():
            vote = next(iter(group.values()))
            if len(group) >= state.quorum and is_about(vote, asked, self.job.job_id):
                return await self.answers_of(asked, [Digest(answer) for answer in vote.answers], state)
        return None

    async def answers_of(
        self, asked: Asked, digests: Sequence[Digest], state: JobState
    ) -> Mapping[int, bytes] | None:
        """Words by seat; an answer that is not there yet gives None, one that is none is left out."""
        records = await self.board.read(f"{asked.topic}/answers", SignedAnswer)
        found: dict[int, bytes] = {}
        for digest in digests:
            if digest not in records:
                return None
            try:
                words = await self.answers.words_of(asked, digest, records[digest], state)
            except (BlobMissing, BlobDamaged):
                return None
            if words is not None:
                found[state.evaluators.index(records[digest].signer)] = words
        return found
