"""One evaluator of five that wants an honest answer left out, with and without a data owner that helps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import msgspec
import numpy as np
import pytest
from benchmarks.things import evaluator_with

from galaxylearning.crypto.ring import DEGREE, pack, unpack
from galaxylearning.crypto.seal import seal
from galaxylearning.messages.records import MaskedBody, decode, encode
from galaxylearning.nodes import assembly
from galaxylearning.nodes.asked import Asked, MaskedUpdates
from galaxylearning.nodes.asked import Phase as Asking
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.member import Member
from galaxylearning.nodes.openings import Openings
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.masking import masking_plan
from galaxylearning.secagg.questions import Questions
from galaxylearning.simulation.stage import STAKE, signer

if TYPE_CHECKING:
    from tests.integration.conftest import Outcome, Stage, Town

LIAR, VICTIM, RIVAL = "evaluator-1", "evaluator-4", "east"
GIVEN_UP_S = 60


def dealer(how: Callable[[int], bool]) -> type[DataOwnerNode]:
    """A data owner that deals the victim no share it can read, or a wrong one where ``how`` of the round."""

    class Dealer(DataOwnerNode):
        def _masked_body(self, *given: Any) -> bytes:
            data = super()._masked_body(*given)
            terms, parameters, job_id, round_index, *_, keys = given
            body = decode(data, MaskedBody, max_bytes=len(data))
            seat = [one.address for one in terms.evaluators].index(signer(VICTIM).address)
            envelope = bytes([body.shares[seat][0]]) + bytes(len(body.shares[seat]) - 1)
            if how(round_index):
                share = pack(masking_plan(terms, parameters).ring, np.ones((1, 2, DEGREE)))
                kind = assembly.share_kind(seat)
                context = assembly.round_context(self.site, job_id, round_index, kind, self.site.address)
                envelope = seal(share, [keys[seat]], context, entropy=self.site.entropy)
            shares = (*body.shares[:seat], envelope, *body.shares[seat + 1 :])
            return encode(msgspec.structs.replace(body, shares=shares))

    return Dealer


class Liar(Member, ABC):
    """Lies about the rival, or about the sum, in some phases; ``awaited`` says whose answers it votes for."""

    lies: ClassVar[tuple[Asking, ...]] = ()

    @abstractmethod
    def awaited(self, openings: Openings, asked: Asked, state: JobState) -> frozenset[str]:
        """Whose answers it waits for, and votes for beside its own."""

    async def take_part(
        self,
        openings: Openings,
        asked: Asked,
        updates: Sequence[MaskedUpdates],
        questions: Sequence[Questions] | None,
        state: JobState,
    ) -> None:
        if asked.topic in self._voted:
            return
        wanted = self.awaited(openings, asked, state)
        others = await self._readable(openings, asked, state, ())
        now = self.site.clock.monotonic_s()
        is_late = now - self._since.setdefault(asked.topic, now) >= GIVEN_UP_S
        if not is_late and not wanted <= set(others.values()):
            return
        await self._answer(openings, asked, updates, questions)
        everybody = await self._readable(openings, asked, state, ())
        wanted |= {self.site.address}
        chosen = tuple(sorted(digest for digest, who in everybody.items() if who in wanted))
        await self._sign_set(asked, chosen, openings.answers.content_keys)

    async def _words(self, *given: Any) -> bytes | None:
        words = await super()._words(*given)
        _, asked, updates, questions = given
        if words is None or asked.phase not in self.lies:
            return words
        ring, width = self.plan.ring, questions[0].count if questions else DEGREE
        residues = unpack(ring, words, width=width, where="answer", is_absent_allowed=True)
        row = updates[0].owners.index(signer(RIVAL).address) if questions else 0
        residues[row] = (residues[row] + 1) % np.array(ring.primes)[:, None]
        return pack(ring, residues)


class Heard(Liar):
    """Votes for those alone whom the last phase was opened of."""

    def awaited(self, openings: Openings, asked: Asked, state: JobState) -> frozenset[str]:
        del asked
        return frozenset(openings.heard or state.seats) - {self.site.address}


class AllAtOneSum(Heard):
    """The same, but tells no lie, and votes for everybody at the sum of round 1."""

    def awaited(self, openings: Openings, asked: Asked, state: JobState) -> frozenset[str]:
        if (asked.round_index, asked.phase) == (1, Asking.SUM):
            return frozenset(state.seats) - {self.site.address}
        return super().awaited(openings, asked, state)


class Ouster(Liar):
    """Where it lies, it votes for all but whoever is first in line to propose."""

    def awaited(self, openings: Openings, asked: Asked, state: JobState) -> frozenset[str]:
        del openings
        others = frozenset(state.seats) - {self.site.address}
        if asked.phase not in self.lies:
            return others
        first = state.evaluators[(asked.round_index + asked.phase) % len(state.evaluators)]
        return others - {min(others) if first == self.site.address else first}


def telling(kind: type[Liar], *lies: Asking) -> type[Liar]:
    """Such a member that lies in these phases."""
    return type(kind.__name__, (kind,), {"lies": lies})


def late_once(stage: Stage, name: str) -> bool:
    """The victim is away while the first gate is voted on, and prompt ever after."""
    if name != VICTIM:
        return True
    topics = stage.blobs.topics()
    board = stage.board()
    is_begun = board.topic("round/0/gate/answers") in topics
    return not is_begun or board.topic("round/0/sum/answers") in topics


def played(
    town: Town,
    folder: Path,
    *,
    liar: type[Member] | None = None,
    seat: str = LIAR,
    dealers: dict[str, Callable[[int], bool]] | None = None,
    is_late: bool = False,
) -> Outcome:
    """What becomes of a job of five with such a member, such data owners, and a victim that is late once."""

    async def main() -> Outcome:
        async with town.full_stage(folder) as stage:
            for name, how in (dealers or {}).items():
                stage.add_owner(name, kind=dealer(how))
            if liar is not None:
                stage.add_evaluator(seat, evaluator_with(liar))
            await stage.play(is_on=(lambda name, _state: late_once(stage, name)) if is_late else None)
            return await stage.outcome()

    return anyio.run(main)


@pytest.mark.parametrize("seat", ["evaluator-1", "evaluator-3"])
@pytest.mark.parametrize("phase", [Asking.GATE, Asking.SUM, Asking.VALUE])
def test_nobody_joins_a_set_without_its_own_answer(
    masked_town: Town, masked: Outcome, tmp_path: Path, seat: str, phase: Asking
) -> None:
    found = played(masked_town, tmp_path / "stage", liar=telling(Ouster, phase), seat=seat)
    assert (found.paid, found.model) == (masked.paid, masked.model)


def test_who_had_no_share_for_a_sum_is_expected_again_right_after(
    masked_town: Town, masked: Outcome, tmp_path: Path
) -> None:
    deals = {"north": lambda _round: False}
    found = played(masked_town, tmp_path / "stage", liar=telling(Heard, Asking.VALUE), dealers=deals)
    assert found.paid == masked.paid


@pytest.mark.parametrize("liar", [None, AllAtOneSum])
def test_a_wrong_share_of_a_sum_is_no_lie_of_whom_no_gate_was_opened_of(
    masked_town: Town, tmp_path: Path, liar: type[Liar] | None
) -> None:
    deals = {"west": lambda index: liar is None or index > 0}
    found = played(masked_town, tmp_path / "stage", liar=liar, dealers=deals, is_late=liar is None)
    assert found.stakes[VICTIM] == STAKE


def test_a_dealer_and_a_liar_spoil_one_sum_and_not_the_next(masked_town: Town, tmp_path: Path) -> None:
    deals = {"north": lambda _round: True}
    found = played(masked_town, tmp_path / "stage", liar=telling(Heard, Asking.SUM), dealers=deals)
    assert found.paid
    assert "north" not in found.paid
    assert found.faulty == {LIAR}


def test_who_was_late_once_is_not_kept_out_for_good(masked_town: Town, tmp_path: Path) -> None:
    found = played(masked_town, tmp_path / "stage", liar=telling(Heard, Asking.SUM), is_late=True)
    assert found.paid
    assert found.faulty == {LIAR}


@pytest.mark.parametrize("is_late", [False, True])
def test_data_owners_that_all_cheat_one_seat_have_nobody_named(
    masked_town: Town, tmp_path: Path, is_late: bool
) -> None:
    deals = {name: lambda _round: True for name in ("north", "east", "south", "west")}
    found = played(masked_town, tmp_path / "stage", dealers=deals, is_late=is_late)
    assert found.stakes[VICTIM] == STAKE
    assert found.audit.verdict == "ok"
