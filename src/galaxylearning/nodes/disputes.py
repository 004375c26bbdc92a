"""Answers about masked updates that do not fit the others: whose fault each is, the member's or the dealer's.

The correction of wrong answers names members, but a data owner may have dealt one of them a share that does
not belong to the others. A member so accused shows the share (``secagg.fault``) in its score table; who
does not, or shows one from which its answer does not follow, lied. The chain fixes the tables, so evaluators
and auditors judge by the same evidence, whenever they look and whatever is on the board.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from galaxylearning.crypto.ring import F64
from galaxylearning.errors import BlobRefused
from galaxylearning.messages.records import MaskedBody
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.asked import MaskedUpdates
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.tables import RevealedTables
from galaxylearning.secagg.fault import fault_of, is_certain
from galaxylearning.secagg.opener import OpenedScalars
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import Questions, question_polynomials
from galaxylearning.units import Address, round_name

Body: TypeAlias = Callable[[MaskedUpdates, int], Awaitable[MaskedBody]]


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

    def __init__(self, site: Site, terms: Terms, job_id: int, plan: MaskingPlan) -> None:
        self.site, self.plan, self.job_id = site, plan, job_id
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

    async def verdicts(self, tables: RevealedTables, body: Body) -> tuple[Verdict, ...]:
        """Whose fault they are, by what each seat shows in its table: of one that lied, the first lie only.

        Seats without a usable table are not judged: they lose their stake for that. ``body`` gives the masked
        update in a row of a round's updates.
        """
        found: dict[Verdict, None] = {}
        for seat, disputes in sorted(self._found.items()):
            if self._seats[seat] not in tables:
                continue
            shown = {
                (share.round_index, share.data_owner): share.content_key
                for share in tables[self._seats[seat]][1].shown
            }
            for dispute in disputes:
                key = shown.get((dispute.updates.round_index, dispute.data_owner))
                is_dealers = key is not None and await self._is_dealers(dispute, key, body)
                fault: Literal["dealer", "member"] = "dealer" if is_dealers else "member"
                where = round_name(dispute.updates.round_index) if is_dealers else dispute.where
                found[Verdict(self._seats[seat], dispute.data_owner, where, fault)] = None
                if not is_dealers:
                    break
        return tuple(found)

    async def _is_dealers(self, dispute: Dispute, key: bytes, body: Body) -> bool:
        about = (dispute, key)
        if about not in self._judged:
            envelope = (await body(dispute.updates, dispute.row)).shares[dispute.seat]
            self._judged[about] = self._blames_dealer(dispute, envelope, key)
        return self._judged[about]

    def _blames_dealer(self, dispute: Dispute, envelope: bytes, content_key: bytes) -> bool:
        context = assembly.round_context(
            self.site,
            self.job_id,
            dispute.updates.round_index,
            assembly.share_kind(dispute.seat),
            dispute.data_owner,
        )
        try:
            fault = fault_of(
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
