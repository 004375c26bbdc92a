"""What data owners dealt one seat of a masked job, and the answers that follow from it.

A member gives these answers; an auditor with a seat's key holds those of others against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from galaxylearning.crypto.ring import DEGREE, F64
from galaxylearning.crypto.seal import SealingKey, open_sealed
from galaxylearning.errors import Refused
from galaxylearning.nodes import assembly
from galaxylearning.nodes.asked import Asked, MaskedUpdates, Phase
from galaxylearning.nodes.site import Site
from galaxylearning.secagg.member import SumAsked, answer_scalars, answer_sum, check_questions, read_share
from galaxylearning.secagg.opener import fitting
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.secagg.questions import Questions, question_polynomials
from galaxylearning.units import Address, round_name

if TYPE_CHECKING:
    from galaxylearning.nodes.openings import Openings


class DealtShares:
    """The shares for one ``seat``, its place among the evaluators of the terms."""

    def __init__(self, site: Site, job_id: int, key: SealingKey, seat: int, plan: MaskingPlan) -> None:
        self._site, self._job_id, self._key = site, job_id, key
        self.seat, self.plan = seat, plan
        self._shares: dict[int, tuple[F64, NDArray[np.bool_]]] = {}

    async def answer(
        self,
        openings: Openings,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
    ) -> bytes | None:
        """The packed answer to what is asked; None where a share is missing that a sum needs."""
        if isinstance(asked.question, SumAsked):
            shares, held = await self._read(openings, updates[0])
            weights = asked.question.weights
            return None if bool(((weights > 0) & ~held).any()) else answer_sum(self.plan, shares, weights)
        parts = []
        for part, one in zip(updates, questions or (), strict=True):
            check_questions(self.plan, one)
            shares, held = await self._read(openings, part)
            polynomials = question_polynomials(self.plan.ring, part.seed, one)
            parts.append(answer_scalars(self.plan, polynomials, shares, held=held))
        return b"".join(parts)

    async def _read(self, openings: Openings, updates: MaskedUpdates) -> tuple[F64, NDArray[np.bool_]]:
        """The shares f64[m, 2, N] of a round's secrets, and which of them can be read, bool[m]."""
        if updates.round_index not in self._shares:
            held = np.ones(len(updates.owners), np.bool_)
            found = []
            bodies = await openings.bodies(updates)
            for row, (who, body) in enumerate(zip(updates.owners, bodies, strict=True)):
                context = assembly.round_context(
                    self._site, self._job_id, updates.round_index, assembly.share_kind(self.seat), who
                )
                try:
                    envelope = body.shares[self.seat]
                    data = open_sealed(envelope, self._key, context, max_bytes=self.plan.share_bytes)
                    found.append(read_share(self.plan, data))
                except Refused:
                    held[row] = False
                    found.append(np.zeros((2, DEGREE)))
            self._shares = {updates.round_index: (np.array(found), held)}
        return self._shares[updates.round_index]


class Witness:
    """Holds what is opened against the shares of one seat, and says in words where it does not follow.

    ``contradictions`` are lies of evaluators. At the gate a data owner may have dealt the seat a bad share
    instead: those are ``doubts``. A share that was not seen to fit there tells nothing later.
    """

    def __init__(self, dealt: DealtShares) -> None:
        self._dealt = dealt
        self._trusted: dict[int, frozenset[Address]] = {}
        """By round: the data owners whose shares for this seat fitted at the gate."""
        self.contradictions: list[str] = []
        self.doubts: list[str] = []

    async def hold(
        self,
        openings: Openings,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
        answers: Mapping[int, bytes],
    ) -> None:
        """Compare with what was opened of ``answers`` by seat; fewer than T + 1 open nothing."""
        own = await self._dealt.answer(openings, asked, updates, questions)
        if own is None or len(answers) < self._dealt.plan.quorum:
            return
        at = 0
        for part, (size, width) in zip(updates, asked.parts, strict=True):
            here = slice(at, at + size)
            given = {seat: words[here] for seat, words in answers.items()}
            fits, misfits = fitting(self._dealt.plan, given, self._dealt.seat, own[here], width=width)
            if asked.phase is Phase.GATE:
                trusted = (part.owners[row] for row in np.flatnonzero(fits).tolist())
                self._trusted[part.round_index] = frozenset(trusted)
            self._judge(asked, part, np.flatnonzero(misfits).tolist())
            at += size

    def _judge(self, asked: Asked, updates: MaskedUpdates, rows: list[int]) -> None:
        trusted = self._trusted.get(updates.round_index, frozenset())
        where = f"{round_name(updates.round_index)}, {asked.phase.name.lower()}"
        follows = "does not follow from what this evaluator was dealt"
        if isinstance(asked.question, SumAsked):
            counted = np.flatnonzero(asked.question.weights).tolist()
            if rows and all(updates.owners[row] in trusted for row in counted):
                self.contradictions.append(f"{where}: what was opened {follows}")
            return
        for who in (updates.owners[row] for row in rows):
            said = f"{where}: what was opened of {who} {follows}"
            if asked.phase is Phase.GATE:
                self.doubts.append(f"{said}: {who} dealt it a bad share, or those who answered lied")
            elif who in trusted:
                self.contradictions.append(said)
