"""Answers about masked updates that do not fit the others: whose fault each is, the member's or the dealer's.

The correction of wrong answers names members, but a data owner may have dealt one of them a share that does
not belong to the others. A member so accused shows the share (``secagg.complaint``); who does not, or shows
one from which its answer does not follow, lied. Evaluators and auditors judge by the same board.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from galaxylearning.crypto.ring import F64
from galaxylearning.errors import BlobRefused, MessageRefused
from galaxylearning.messages.records import MaskedBody, SignedComplaint, verify
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.asked import MaskedUpdates
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.site import Site
from galaxylearning.secagg.complaint import check_complaint, is_certain
from galaxylearning.secagg.opener import OpenedScalars
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import Questions, question_polynomials
from galaxylearning.units import Address

MAX_COMPLAINTS: Final = 4
"""So many complaints of one member about one data owner in a round are looked at."""

Body: TypeAlias = Callable[[MaskedUpdates, int], Awaitable[MaskedBody]]


def complaints_topic(round_index: int) -> str:
    """Where members show the shares of a round that they were dealt."""
    return f"round/{round_index}/complaints"


@dataclass(frozen=True, slots=True, eq=False)
class Dispute:
    """A member's answer about one data owner, found wrong where T members cannot have had it found so.

    ``seat`` counts evaluators, ``row`` data owners of ``updates``. The ``answer`` is to questions with
    ``polynomials`` f64[k, 2, N].
    """

    seat: int
    updates: MaskedUpdates
    row: int
    where: str
    polynomials: F64
    answer: bytes

    @property
    def data_owner(self) -> Address:
        """Whom the answer is about."""
        return self.updates.owners[self.row]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whose fault a wrong answer is: the ``dealer`` is the data owner."""

    evaluator: Address
    data_owner: Address
    where: str
    fault: Literal["dealer", "member"]


class Disputes:
    """The disputes of one masked job, as one node sees them."""

    def __init__(self, site: Site, board: Board, terms: Terms, job_id: int, plan: MaskingPlan) -> None:
        self.site, self.board, self.plan, self.job_id = site, board, plan, job_id
        self._seats = [Address(seat.address) for seat in terms.evaluators]
        self._found: dict[int, list[Dispute]] = {}
        self._judged: dict[tuple[Dispute, bytes], bool] = {}

    def take(
        self,
        opened: OpenedScalars,
        answers: Mapping[int, bytes],
        updates: MaskedUpdates,
        questions: Questions,
        where: str,
    ) -> tuple[Dispute, ...]:
        """Keep what is certainly wrong among ``answers`` by seat, and return it."""
        size = self.plan.scalars_bytes(1, questions.count)
        read = set(answers) - set(opened.refused)
        accused: dict[int, list[int]] = {}
        for seat, rows in opened.wrong.items():
            for row in rows:
                accused.setdefault(row, []).append(seat)
        certain = []
        for row, seats in sorted(accused.items()):
            held = sum(row not in opened.absent.get(seat, ()) for seat in read)
            if is_certain(self.plan, answers=held, wrong=len(seats)):
                certain += [(seat, row) for seat in sorted(seats)]
        if not certain:
            return ()
        polynomials = question_polynomials(self.plan.ring, updates.seed, questions)
        found = tuple(
            Dispute(seat, updates, row, where, polynomials, answers[seat][row * size : (row + 1) * size])
            for seat, row in certain
        )
        for dispute in found:
            self._found.setdefault(dispute.seat, []).append(dispute)
        return found

    async def verdicts(self, body: Body) -> tuple[Verdict, ...]:
        """Whose fault they are, by the complaints on the board now: of one that lied, the first lie only.

        ``body`` gives the masked update in a row of a round's updates.
        """
        found: dict[Verdict, None] = {}
        for seat, disputes in sorted(self._found.items()):
            for dispute in disputes:
                is_dealers = await self._is_dealers(dispute, body)
                fault: Literal["dealer", "member"] = "dealer" if is_dealers else "member"
                where = f"round {dispute.updates.round_index}" if is_dealers else dispute.where
                found[Verdict(self._seats[seat], dispute.data_owner, where, fault)] = None
                if not is_dealers:
                    break
        return tuple(found)

    async def _is_dealers(self, dispute: Dispute, body: Body) -> bool:
        for complaint in await self._complaints(dispute):
            key = (dispute, complaint.content_key)
            if key not in self._judged:
                envelope = (await body(dispute.updates, dispute.row)).shares[dispute.seat]
                self._judged[key] = self._blames_dealer(dispute, envelope, complaint.content_key)
            if self._judged[key]:
                return True
        return False

    async def _complaints(self, dispute: Dispute) -> list[SignedComplaint]:
        round_index = dispute.updates.round_index
        about = (self.job_id, round_index, dispute.data_owner, self._seats[dispute.seat])
        records = await self.board.read(complaints_topic(round_index), SignedComplaint)
        return [
            record
            for _, record in sorted(records.items())
            if (record.job_id, record.round_index, record.data_owner, record.evaluator) == about
            and self._is_signed(record)
        ][:MAX_COMPLAINTS]

    def _is_signed(self, record: SignedComplaint) -> bool:
        try:
            verify(record, self.site.domain())
        except MessageRefused:
            return False
        return True

    def _blames_dealer(self, dispute: Dispute, envelope: bytes, content_key: bytes) -> bool:
        context = assembly.round_context(
            self.site,
            self.job_id,
            dispute.updates.round_index,
            assembly.share_kind(dispute.seat),
            dispute.data_owner,
        )
        try:
            fault = check_complaint(
                self.plan,
                envelope=envelope,
                content_key=content_key,
                context=context,
                polynomials=dispute.polynomials,
                answer=dispute.answer,
            )
        except BlobRefused:
            return False
        return fault == "dealer"
