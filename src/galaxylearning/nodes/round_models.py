"""The models of rounds as they are handed out: which parcels evaluators signed for, and what they carry.

An evaluator may sign for any number of parcels that carry nothing, and anybody may post again what evaluators
signed for another round. So of each evaluator few parcels are looked at, and each that carries nothing once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.errors import BlobDamaged, Refused
from galaxylearning.messages.records import SignedOpening
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.machine import JobState
from galaxylearning.units import Address, Digest

MOST_SIGNED: Final = 2
"""So many parcels an evaluator signs for in a round: one that it found good, and later one of its own."""

Parcels: TypeAlias = Mapping[Digest, frozenset[Address]]
"""Who signed for each parcel."""


class RoundModels:
    """The parcels of one job, read by whoever holds ``key``."""

    def __init__(self, site: Site, board: Board, terms: Terms, job_id: int, key: SealingKey) -> None:
        self._site, self._board, self._terms, self._job_id, self._key = site, board, terms, job_id, key
        self._round_index = -1
        self._looked_at: dict[Address, set[tuple[Digest, Digest]]] = {}
        self._empty: set[tuple[Digest, Digest]] = set()
        """Parcels of this round that were fetched and do not carry this model for us."""

    async def signed(self, state: JobState) -> Mapping[Digest, Parcels]:
        """The parcels of the round under way by the model they are to carry.

        Of each seat the first ``MOST_SIGNED`` that were seen: one that signs for more hides only its own.
        """
        if self._round_index != state.round_index:
            self._round_index, self._looked_at, self._empty = state.round_index, {}, set()
        name = f"round/{state.round_index}/openings"
        found: dict[Digest, dict[Digest, frozenset[Address]]] = {}
        for group in (await self._board.votes(name, SignedOpening, state.seats)).values():
            for who, opening in group.items():
                if (opening.job_id, opening.round_index) != (self._job_id, state.round_index):
                    continue
                model, parcel = Digest(opening.model_digest), Digest(opening.parcel_digest)
                looked_at = self._looked_at.setdefault(who, set())
                if len(looked_at) < MOST_SIGNED:
                    looked_at.add((model, parcel))
                if (model, parcel) in looked_at:
                    of_model = found.setdefault(model, {})
                    of_model[parcel] = of_model.get(parcel, frozenset()) | {who}
        return found

    async def carried(
        self, state: JobState, model: Digest, parcel: Digest, *, model_bytes: int
    ) -> bytes | None:
        """The model that a parcel of the round under way carries for us, or None where it is not in it.

        Raises:
            BlobMissing, BlobDamaged: it cannot be had yet.
        """
        if (model, parcel) in self._empty:
            return None
        try:
            found = await assembly.open_parcel(
                self._site,
                parcel,
                self._key,
                assembly.round_context(
                    self._site, self._job_id, state.round_index, "model", Address(self._terms.requester)
                ),
                plaintext_bytes=model_bytes,
                recipients=state.cohort_size + len(self._terms.evaluators),
            )
            if blake3_digest(found) == model:
                return found
        except BlobDamaged:
            raise
        except Refused:
            pass
        self._empty.add((model, parcel))
        return None
