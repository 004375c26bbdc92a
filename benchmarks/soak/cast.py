"""Who takes part, and how six of the twenty misbehave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import anyio.lowlevel
import msgspec
import numpy as np
from benchmarks.things import LyingMember
from numpy.typing import NDArray

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import seal
from galaxylearning.graph import FlatModel, ModelGraph, weights_from_bytes
from galaxylearning.messages import typed
from galaxylearning.messages.records import MaskedBody, ScoreTable, SignedUpdate, decode, encode
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.data_owner import DataOwnerNode
from galaxylearning.nodes.evaluator import EvaluatorNode, SeatedJob
from galaxylearning.nodes.member import Member
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.updates import train_for_owner, training_seed
from galaxylearning.sandbox import ThreadTrainer
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.units import Address

HONEST_EVALUATORS: Final = ("evaluator-1", "evaluator-2", "evaluator-3")
LIAR, VANISHING = "evaluator-4", "evaluator-5"
EVALUATORS: Final = (*HONEST_EVALUATORS, LIAR, VANISHING)
HONEST_OWNERS: Final = tuple(f"owner-{number:02d}" for number in range(1, 11))
FREE_RIDER, SPOILER, SHUFFLER, TWO_FACED = "free-rider", "spoiler", "shuffler", "two-faced"
MISBEHAVING_OWNERS: Final = (FREE_RIDER, SPOILER, SHUFFLER, TWO_FACED)
OWNERS: Final = (*HONEST_OWNERS, *MISBEHAVING_OWNERS)
VANISHES_EVERY: Final = 3
"""The vanishing evaluator takes its seat in every job, and in every third one does nothing more."""
NOISE_LEVELS: Final = 3.0
"""What a free rider makes up has about this many levels of the quantisation."""

I32 = NDArray[np.int32]


def is_deserted(job_id: int) -> bool:
    """Whether the vanishing evaluator vanishes from this job."""
    return job_id % VANISHES_EVERY == 0


# ---- evaluators


class LyingSeat(SeatedJob):
    """Answers wrongly where answers are asked for and all five are there, or else reveals false scores."""

    @property
    def answers_wrongly(self) -> bool:
        """With an evaluator gone, one more that answers wrongly is more than five can bear."""
        return self.terms.privacy == "masked" and not is_deserted(self.job_id)

    def member(self, plan: MaskingPlan) -> Member:
        """Its part in opening a masked job."""
        kind = LyingMember if self.answers_wrongly else Member
        return kind(self.site, self.board, self.terms, self.job_id, self.key, plan, stagger_s=self.stagger_s)

    async def score_table(self, state: JobState) -> ScoreTable:
        """The first data owner is worth ten times as much, the others nothing."""
        honest = await super().score_table(state)
        if self.answers_wrongly:
            return honest
        first, *others = honest.totals
        totals = (
            msgspec.structs.replace(first, value=10 * abs(first.value) + 1),
            *(msgspec.structs.replace(total, value=0) for total in others),
        )
        return msgspec.structs.replace(honest, totals=totals)


class LyingEvaluator(EvaluatorNode):
    """Lies in every job."""

    def seat(self, job_id: int, terms: Terms) -> SeatedJob:
        """The work on one job."""
        return LyingSeat(self, self._view, job_id, terms)


class DesertedSeat(SeatedJob):
    """Takes the seat, and is not seen again."""

    async def turn(self, state: JobState) -> bool:
        """Do nothing once the cohort is anchored."""
        if state.phase is Phase.ENROLLING:
            return await super().turn(state)
        return state.phase in (Phase.SETTLED, Phase.ABORTED)


class VanishingEvaluator(EvaluatorNode):
    """Deserts every third job."""

    def seat(self, job_id: int, terms: Terms) -> SeatedJob:
        """The work on one job."""
        kind = DesertedSeat if is_deserted(job_id) else SeatedJob
        return kind(self, self._view, job_id, terms)


EVALUATOR_KINDS: Final[Mapping[str, type[EvaluatorNode]]] = {
    LIAR: LyingEvaluator,
    VANISHING: VanishingEvaluator,
}


# ---- data owners


class HonestTrainer(ThreadTrainer):
    """Trains in the loop itself, where time is virtual and there are no threads."""

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[I32, I32]:
        """See ``ports.Trainer.train``; nothing is kept from one update to the next."""
        model = _model(graph, state)
        update = train_for_owner(
            model,
            terms,
            model.from_state_bytes(state),
            rows,
            rng=training_seed(terms, round_index, data_owner),
            entropy=self._entropy,
        )
        await anyio.lowlevel.checkpoint()
        return update


class FreeRider(ThreadTrainer):
    """Sends zeros or, in every other round, a little noise."""

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[I32, I32]:
        """An update in form only."""
        del rows, data_owner
        model = _model(graph, state)
        update = np.zeros(model.parameter_count, np.int32)
        if round_index % 2:
            rng = np.random.default_rng([terms.seed, round_index, 0xF4EE])
            update += np.rint(rng.normal(0, NOISE_LEVELS, update.size)).astype(np.int32)
        return update, np.zeros(model.buffer_count, np.int32)


def _model(graph: bytes, state: bytes) -> FlatModel:
    parsed = ModelGraph.from_bytes(graph)
    return FlatModel(parsed, weights_from_bytes(parsed, state, max_bytes=len(state)))


class SpoilerOwner(DataOwnerNode):
    """Sends something that is no update: floats that are not numbers, or a masked body cut short."""

    async def _sealed_update(
        self,
        terms: Terms,
        job_id: int,
        round_index: int,
        dataset: str,
        state_bytes: bytes,
        keys: Sequence[bytes],
    ) -> bytes:
        honest = await super()._sealed_update(terms, job_id, round_index, dataset, state_bytes, keys)
        if terms.privacy == "masked":
            body = decode(honest, MaskedBody, max_bytes=len(honest))
            return encode(msgspec.structs.replace(body, masked=body.masked[: len(body.masked) // 2]))
        context = assembly.round_context(self.site, job_id, round_index, "update", self.site.address)
        nothing = np.full(64, np.nan, np.float32).tobytes()
        return seal(nothing, keys, context, entropy=self.site.entropy)


class TwoFacedOwner(DataOwnerNode):
    """Signs another update of each round before its own one, of the same model."""

    async def _sealed_update(
        self,
        terms: Terms,
        job_id: int,
        round_index: int,
        dataset: str,
        state_bytes: bytes,
        keys: Sequence[bytes],
    ) -> bytes:
        own = await super()._sealed_update(terms, job_id, round_index, dataset, state_bytes, keys)
        board, name = Board(self.site, job_id), f"round/{round_index}"
        message = typed.Update(
            job_id=job_id,
            round_index=round_index,
            terms_digest=terms.digest,
            data_owner=self.site.address,
            model_digest=blake3_digest(state_bytes),
            update_digest=await board.put(f"{name}/bodies", own[::-1]),
        )
        signature = self.site.signer.sign_digest(message.digest(self.site.domain()))
        await board.post(f"{name}/updates", SignedUpdate.from_message(message, signature=signature))
        return own


OWNER_KINDS: Final[Mapping[str, type[DataOwnerNode]]] = {SPOILER: SpoilerOwner, TWO_FACED: TwoFacedOwner}
