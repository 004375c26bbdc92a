"""A round's model on its way to the data owners: sealed by one evaluator, checked by the others.

Each recipient opens its own share of a parcel, so evaluators see only that theirs is right. Who seals it may
leave a data owner out, which then says so in its sign of life, and the others seal parcels of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from galaxylearning.crypto.seal import SealingKey, seal
from galaxylearning.errors import BlobDamaged, BlobMissing, StorageError
from galaxylearning.messages import typed
from galaxylearning.messages.records import ACTIVITIES, LOCKED_OUT, SignedOpening, SignedPresence
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.ballots import Ballots
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.presence import LOOKS_A_SIGN, PresenceBoard
from galaxylearning.nodes.round_models import RoundModels
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.cohort import AcceptedUpdates, Cohort
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.units import Address, Digest

Turn = Callable[[JobState, str], bool]
"""Whether it is our turn to do what is named."""


class Parcels:
    """One evaluator's part in handing out the models of one job."""

    def __init__(
        self, site: Site, board: Board, terms: Terms, job_id: int, key: SealingKey, ballots: Ballots
    ) -> None:
        self._site, self._board, self._terms, self._job_id = site, board, terms, job_id
        self._key, self._ballots = key, ballots
        self._models = RoundModels(site, board, terms, job_id, key)
        self._presence = PresenceBoard(site, board, terms, job_id)
        self._sealed: int | None = None
        """The last round of which our own parcel was posted: once is enough, whoever goes on crying."""
        self._signs: Mapping[Address, SignedPresence] = {}
        self._listened: tuple[int, float] | None = None
        """The round of the signs, and when they were read."""

    async def open_round(
        self, state: JobState, job: JobComputation, cohort: Cohort, model: Digest, *, is_our_turn: Turn
    ) -> None:
        """Sign a parcel that carries this round's model: the first in line makes it, the others check it."""
        models = await self._models.signed(state)
        if any(self._site.address in signers for parcels in models.values() for signers in parcels.values()):
            return
        for parcel in models.get(model, ()):
            if await self._carries(state, job, model, parcel):
                await self._sign(state, model, parcel)
                return
        if is_our_turn(state, f"round/{state.round_index}/open"):
            await self._seal(state, job, cohort, model)

    async def open_again(
        self,
        state: JobState,
        job: JobComputation,
        cohort: Cohort,
        accepted: AcceptedUpdates,
        *,
        is_our_turn: Turn,
    ) -> None:
        """Seal a parcel of our own where somebody whose update is missing says that none opens for it.

        Who is left out says so once an interval, and has the whole round: some looks an interval hear it.
        """
        if self._sealed == state.round_index:
            return
        present = {one.update.data_owner for one in accepted.updates}
        try:
            signs = await self._heard(state.round_index)
        except StorageError:
            return  # A sign of life is a hint: without it the round goes on.
        is_left_out = any(
            who not in present and who in signs and ACTIVITIES[signs[who].activity] == LOCKED_OUT
            for who in cohort.data_owners
        )
        if is_left_out and is_our_turn(state, f"round/{state.round_index}/open again"):
            await self._seal(state, job, cohort, job.model_digest())

    async def _heard(self, round_index: int) -> Mapping[Address, SignedPresence]:
        """The signs of a round, read a few times an interval."""
        now = self._site.clock.monotonic_s()
        pause_s = self._presence.interval_s / LOOKS_A_SIGN
        if self._listened is None or self._listened[0] != round_index or now - self._listened[1] >= pause_s:
            self._signs = await self._presence.latest(round_index)
            self._listened = round_index, now
        return self._signs

    async def _seal(self, state: JobState, job: JobComputation, cohort: Cohort, model: Digest) -> None:
        name = f"round/{state.round_index}"
        step = f"job/{self._job_id}/{name}/parcel"
        parcel = self._site.journal.lookup(step)
        if parcel is None:
            recipients = [member.sealing_key for member in cohort.members]
            recipients += await assembly.evaluator_keys(self._site, self._terms)
            context = assembly.round_context(
                self._site, self._job_id, state.round_index, "model", Address(self._terms.requester)
            )
            parcel = self._site.journal.record(
                step, seal(job.model_bytes(), recipients, context, entropy=self._site.entropy)
            )
        await self._sign(state, model, await self._board.put(f"{name}/parcels", parcel))
        self._sealed = state.round_index

    async def _carries(self, state: JobState, job: JobComputation, model: Digest, parcel: Digest) -> bool:
        """Whether a parcel is there, opens for us and holds this very model."""
        try:
            found = await self._models.carried(state, model, parcel, model_bytes=len(job.model_bytes()))
        except (BlobMissing, BlobDamaged):
            return False
        return found is not None

    async def _sign(self, state: JobState, model: Digest, parcel: Digest) -> None:
        opening = typed.RoundOpening(self._job_id, state.round_index, model, parcel)
        await self._ballots.sign(f"round/{state.round_index}/openings", SignedOpening, opening)
