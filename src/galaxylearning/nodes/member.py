"""An evaluator as a member of the decryption committee: it answers, once, and votes on which answers count.

An answer and a vote are journalled before they are published, so a restarted member never gives another one.
Which questions it answers is the law of :mod:`galaxylearning.secagg.member`; that they are the right ones
follows from their being computed here, from the committed test set, the public model and the chain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from galaxylearning.crypto.seal import SealingKey, seal
from galaxylearning.errors import BlobDamaged, BlobMissing, BlobRefused, PhaseError
from galaxylearning.messages import typed
from galaxylearning.messages.fields import DIGEST_BYTES, address_key
from galaxylearning.messages.records import (
    AnswerBody,
    ShownShare,
    SignedAnswer,
    SignedAnswerSet,
    answers_root,
    encode,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.asked import Asked, MaskedUpdates, answer_kind, is_about, keys_kind
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.dealt import DealtShares
from galaxylearning.nodes.disputes import Dispute
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.machine import JobState
from galaxylearning.secagg.fault import reveal_share
from galaxylearning.secagg.member import MemberState, Question, step
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import Questions
from galaxylearning.units import Address, Digest

if TYPE_CHECKING:
    from galaxylearning.nodes.openings import Openings

PATIENCE: Final = 1.0
"""So many staggers an answer that is expected is waited for once enough others are there."""

PATIENCE_WHERE_TIGHT: Final = 5.0
"""The same where the answers that are there are too few to correct the lies of f members."""


def longest_vote(seats: int) -> float:
    """So many staggers a phase may take until its last seat in line proposes a set (``Member._vote``).

    Somebody is missing and answers are few, one of them cannot be read, and somebody votes twice.
    """
    return PATIENCE_WHERE_TIGHT + 3 * PATIENCE + seats - 1


class Member:
    """One seat's part in the openings of one job."""

    def __init__(
        self,
        site: Site,
        board: Board,
        terms: Terms,
        job_id: int,
        key: SealingKey,
        plan: MaskingPlan,
        *,
        stagger_s: float,
    ) -> None:
        self.site, self.board, self.terms, self.job_id = site, board, terms, job_id
        self.key, self.plan, self.stagger_s = key, plan, stagger_s
        self._law = MemberState(plan, terms.plan.rounds)
        self._shown: dict[tuple[int, int], ShownShare] = {}
        self._dealt = DealtShares(site, job_id, key, self.seat, plan)
        self._posted: set[str] = set()
        self._voted: set[str] = set()
        self._since: dict[str, float] = {}
        self._in_time: dict[str, frozenset[Address]] = {}
        """By topic: whose answers were there when our patience ended."""

    @property
    def seat(self) -> int:
        """Our place among the evaluators of the terms."""
        return [seat.address for seat in self.terms.evaluators].index(self.site.address)

    def admit(self, question: Question) -> None:
        """Hold a question against what was answered before.

        Raises:
            PhaseError, UpdateRefused, QuorumMissing: it may not be asked now, or not at all.
        """
        self._law = step(self._law, question)

    async def take_part(
        self,
        openings: Openings,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
        state: JobState,
    ) -> None:
        """Answer, where not done yet, and vote for a set of answers, once there are enough."""
        await self._answer(openings, asked, updates, questions)
        await self._vote(openings, asked, state)

    # ---- answering

    async def _answer(
        self,
        openings: Openings,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
    ) -> None:
        if asked.topic in self._posted:
            return
        journalled = f"job/{self.job_id}/{asked.topic}/answer"
        kept = self.site.journal.lookup(journalled)
        if kept is None:
            words = await self._words(openings, asked, updates, questions)
            if words is None:
                return
            sealed = await self._sealed(asked, words, answer_kind(asked.phase))
            kept = self.site.journal.record(journalled, asked.digest + sealed)
        if kept[:DIGEST_BYTES] != asked.digest:
            raise PhaseError("another question was answered in its place", where=asked.topic)
        blob = await self.board.put(f"{asked.topic}/blobs", kept[DIGEST_BYTES:])
        message = typed.MaskedAnswer(self.job_id, asked.round_index, int(asked.phase), asked.digest, blob)
        await self._sign(f"{asked.topic}/answers", SignedAnswer, message)
        self._posted.add(asked.topic)

    async def _words(
        self,
        openings: Openings,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
    ) -> bytes | None:
        """Our packed answer; None where we lack a share that a sum needs."""
        return await self._dealt.answer(openings, asked, updates, questions)

    # ---- showing shares

    @property
    def shown(self) -> tuple[ShownShare, ...]:
        """What our score table shows of the shares that we were dealt."""
        return tuple(self._shown[about] for about in sorted(self._shown))

    async def answer_for(self, openings: Openings, disputes: Sequence[Dispute]) -> None:
        """Where our answer was found wrong, keep the share from which it follows as evidence."""
        for dispute in disputes:
            round_index, who = dispute.updates.round_index, dispute.data_owner
            about = round_index, address_key(who)
            if dispute.seat != self.seat or about in self._shown:
                continue
            kind = assembly.share_kind(self.seat)
            context = assembly.round_context(self.site, self.job_id, round_index, kind, who)
            envelope = (await openings.body(dispute.updates, dispute.row)).shares[self.seat]
            try:
                key = reveal_share(self.plan, envelope, self.key, context)
            except BlobRefused:
                continue
            self._shown[about] = ShownShare(round_index, who, key)

    async def _sealed(self, asked: Asked, words: bytes, kind: str) -> bytes:
        body = AnswerBody(
            job_id=self.job_id,
            round_index=asked.round_index,
            phase=int(asked.phase),
            evaluator=self.site.address,
            words=words,
        )
        context = assembly.round_context(self.site, self.job_id, asked.round_index, kind, self.site.address)
        keys = await assembly.evaluator_keys(self.site, self.terms)
        return seal(encode(body), keys, context, entropy=self.site.entropy)

    # ---- voting

    async def _vote(self, openings: Openings, asked: Asked, state: JobState) -> None:
        """Vote for a set that leaves out nobody whose answer was there in time, or propose one.

        We join no set without the answers of all others that are expected; once our patience is over, of all
        that had answered by then. A member that lies may answer last and propose few answers, its own among
        them, so that its lie is not corrected. What more than f members vote for some honest one found whole.
        Where somebody is missing a set is proposed a stagger later, when what anybody saw in time can be seen
        by all; and another later where somebody votes for an answer that we cannot read, which it may show
        us how to.
        """
        if asked.topic in self._voted:
            return
        kept = self.site.journal.lookup(self._vote_step(asked))
        if kept is not None:
            await openings.answers_of(asked, voted_for(kept), state)
            await self._post_set(asked, kept, openings.answers.content_keys)
            return
        votes = await self.board.votes(f"{asked.topic}/sets", SignedAnswerSet, state.seats)
        # Anybody may post again what members voted for elsewhere.
        groups = [one for one in votes.values() if is_about(next(iter(one.values())), asked, self.job_id)]
        said = Counter(who for group in groups for who in group)
        # Who votes twice may want to part the others: it counts for nobody, its sets wait for another vote.
        sets = [(sum(said[who] == 1 for who in one), next(iter(one.values())).answers) for one in groups]
        proposed = sorted(
            (-count, tuple(Digest(answer) for answer in answers))
            for count, answers in sets
            if count and len(answers) <= len(state.evaluators)
        )
        answers = await self._readable(openings, asked, state, {one for _, each in proposed for one in each})
        given = Counter(answers.values())
        twice = {who for who, count in given.items() if count > 1}
        own = {who: digest for digest, who in answers.items() if who not in twice}
        if len(own) <= self.plan.threshold:
            return
        now = self.site.clock.monotonic_s()
        waited_s = now - self._since.setdefault(asked.topic, now)
        expected = (openings.heard or frozenset(state.seats)) - twice
        # Whoever is there anyway counts, expected or not: ourselves, too.
        wanted = (expected - {self.site.address}) | own.keys()
        is_tight = len(own) < self.plan.quorum + 2 * self.plan.faulty
        patience = PATIENCE_WHERE_TIGHT if is_tight else PATIENCE
        if waited_s >= patience * self.stagger_s:
            wanted &= self._in_time.setdefault(asked.topic, frozenset(own))
        is_unread = False
        for negative, chosen in proposed:
            signers = {answers[digest] for digest in chosen if digest in answers}
            is_unread = is_unread or not answers.keys() >= set(chosen)
            is_vouched = -negative > max(1, self.plan.faulty)
            is_whole = negative < 0 and wanted <= signers
            if len(signers) == len(chosen) > self.plan.threshold and (is_whole or is_vouched):
                await self._sign_set(asked, chosen, openings.answers.content_keys)
                return
        # The line starts at another seat in every round and phase, so the work goes round.
        place = (self.seat - asked.round_index - asked.phase) % len(state.evaluators)
        pause = place if expected <= own.keys() else patience + PATIENCE * (2 if is_unread else 1) + place
        if twice or max(said.values(), default=0) > 1:
            pause += PATIENCE  # Somebody may have voted before it could see that.
        if waited_s >= pause * self.stagger_s:
            await self._sign_set(asked, tuple(sorted(own.values())), openings.answers.content_keys)

    async def _readable(
        self, openings: Openings, asked: Asked, state: JobState, named: Collection[Digest]
    ) -> dict[Digest, Address]:
        """Answers that open for us, and who gave them: two of each at most, and those ``named`` by votes."""
        records = await self.board.read(f"{asked.topic}/answers", SignedAnswer)
        found: dict[Digest, Address] = {}
        given: Counter[Address] = Counter()
        for digest, record in sorted(records.items()):
            if given[record.signer] > 1 and digest not in named:
                continue
            try:
                if await openings.answers.words_of(asked, digest, record, state) is None:
                    given[record.signer] += digest in openings.answers.closed
                    continue
            except (BlobMissing, BlobDamaged):
                given[record.signer] += 1  # It is signed, and of a seat.
                continue
            given[record.signer] += 1
            found[digest] = record.signer
        return found

    def _vote_step(self, asked: Asked) -> str:
        return f"job/{self.job_id}/{asked.topic}/vote"

    async def _sign_set(
        self, asked: Asked, answers: tuple[Digest, ...], keys: Mapping[Digest, bytes]
    ) -> None:
        """Vote, once: the board may not show our own vote yet when we look again."""
        vote = asked.digest + b"".join(answers)
        await self._post_set(asked, self.site.journal.record(self._vote_step(asked), vote), keys)

    async def _post_set(self, asked: Asked, vote: bytes, keys: Mapping[Digest, bytes]) -> None:
        """Post a vote, and before it how to open each of its answers, sealed to the evaluators.

        A member may seal its answer to some of them only, to part them.
        """
        if vote[:DIGEST_BYTES] != asked.digest:
            raise PhaseError("answers to another question were voted for in its place", where=asked.topic)
        answers = voted_for(vote)
        await self._show(asked, b"".join(answer + keys[answer] for answer in answers if answer in keys))
        message = typed.AnswerSet(
            self.job_id, asked.round_index, int(asked.phase), asked.digest, answers_root(answers)
        )
        await self._sign(f"{asked.topic}/sets", SignedAnswerSet, message, answers=answers)
        self._voted.add(asked.topic)

    async def _show(self, asked: Asked, keys: bytes) -> None:
        step = f"job/{self.job_id}/{asked.topic}/keys"
        sealed = self.site.journal.lookup(step)
        if sealed is None:
            if not keys:
                return
            sealed = self.site.journal.record(step, await self._sealed(asked, keys, keys_kind(asked.phase)))
        blob = await self.board.put(f"{asked.topic}/shown", sealed)
        opening = typed.MaskedAnswer(self.job_id, asked.round_index, int(asked.phase), asked.digest, blob)
        await self._sign(f"{asked.topic}/keys", SignedAnswer, opening)

    async def _sign(
        self,
        topic: str,
        kind: type[SignedAnswer] | type[SignedAnswerSet],
        message: typed.TypedMessage,
        **rest: object,
    ) -> None:
        signature = self.site.signer.sign_digest(message.digest(self.site.domain()))
        await self.board.post(
            topic, kind.from_message(message, evaluator=self.site.address, signature=signature, **rest)
        )


def voted_for(vote: bytes) -> tuple[Digest, ...]:
    """The answers of a journalled vote: the question's digest, then theirs."""
    return tuple(
        Digest(vote[place : place + DIGEST_BYTES]) for place in range(DIGEST_BYTES, len(vote), DIGEST_BYTES)
    )
