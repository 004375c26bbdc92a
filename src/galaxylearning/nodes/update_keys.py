"""Content keys of sealed updates, shown among evaluators: what opens for one of them opens for all.

A data owner may seal its update to some evaluators only, to part them. Nobody votes for an update that it
cannot open, and who votes shows the others before how to open each. A content key is what the envelope
commits to, so it opens the same for everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from galaxylearning.crypto.seal import (
    SealContext,
    SealingKey,
    is_revealed,
    open_revealed,
    open_sealed,
    reveal_content_key,
    seal,
    sealed_bytes,
)
from galaxylearning.errors import BlobDamaged, BlobMissing, BlobRefused, MessageRefused, Refused
from galaxylearning.messages import typed
from galaxylearning.messages.fields import DIGEST_BYTES
from galaxylearning.messages.records import AnswerBody, SignedAnswer, decode, encode, verify
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.answers import KEY_BYTES, ShownKeys, pairs_in
from galaxylearning.nodes.asked import RECORD_BYTES, Phase
from galaxylearning.nodes.ballots import Ballots
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.cohort import AcceptedUpdate
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import body_limit
from galaxylearning.units import ZERO_DIGEST, Address, Digest

SHOWN_EACH: Final = 2
"""So many keys for each data owner are read of one evaluator in a round.

It shows those of updates that count, as they come: at most one of each data owner does."""

_COUNT_BYTES: Final = 4


class UpdateKeys:
    """What one evaluator or auditor can open of the sealed updates of one job."""

    def __init__(self, site: Site, board: Board, terms: Terms, job_id: int, key: SealingKey) -> None:
        self._site, self._board, self._terms, self._job_id, self._key = site, board, terms, job_id, key
        self._keys: dict[Digest, bytes] = {}
        self._closed: set[Digest] = set()
        """Updates that were fetched and did not open: not fetched again before somebody shows a key."""
        self._shown: dict[int, set[Digest]] = {}
        self._others = -1, self._none_shown()
        """The round whose keys were read last, and what others have shown in it."""

    async def closed(
        self, job: JobComputation, round_index: int, updates: Iterable[AcceptedUpdate]
    ) -> frozenset[Digest]:
        """Which updates of a round do not open for us, and nobody has shown us how to open."""
        found = set()
        for one in updates:
            digest = Digest(one.update.update_digest)
            if digest in self._keys:
                continue
            if digest in self._closed and not await self._shown_by_others(round_index, digest):
                found.add(digest)
                continue
            try:
                await self.open(job, round_index, one.update.data_owner, digest)
            except (Refused, BlobMissing):
                found.add(digest)
        return frozenset(found)

    async def open(self, job: JobComputation, round_index: int, who: Address, digest: Digest) -> bytes:
        """The plaintext of an update.

        Raises:
            BlobMissing: it cannot be had yet, or nobody has shown how to open it yet.
            BlobDamaged, BlobRefused: as ``open_sealed``.
        """
        most = body_limit(job.sizes, job.terms.plan.bits)
        blob = await self._site.blobs.get(digest, max_bytes=sealed_bytes(most, len(self._terms.evaluators)))
        context = self._context(round_index, "update", who)
        if digest not in self._keys:
            try:
                self._keys[digest] = reveal_content_key(blob, self._key, context, max_bytes=most)
            except BlobDamaged:
                raise
            except BlobRefused:
                shown = await self._shown_by_others(round_index, digest)
                fitting = [key for key in shown if is_revealed(blob, key, context, max_bytes=most)]
                if not fitting:
                    self._closed.add(digest)
                    raise BlobMissing("nobody has shown how to open it", where=digest.hex()) from None
                self._keys[digest] = fitting[0]
        return open_revealed(blob, self._keys[digest], context, max_bytes=most)

    async def show(self, round_index: int, digests: Collection[Digest], ballots: Ballots) -> None:
        """Show the evaluators how to open these updates, each once; what is said is journalled before."""
        prefix, journal = f"job/{self._job_id}/round/{round_index}/keys/", self._site.journal
        said = sorted(journal.steps(prefix))
        if round_index not in self._shown:
            self._shown[round_index] = set()
            for step in said:  # Of an earlier run, which may have ended before it was posted.
                await self._post(round_index, journal.lookup(step) or b"", ballots)
        shown = self._shown[round_index]
        new = sorted(digest for digest in digests if digest in self._keys and digest not in shown)
        if not new:
            return
        body = AnswerBody(
            job_id=self._job_id,
            round_index=round_index,
            phase=int(Phase.GATE),
            evaluator=self._site.address,
            words=b"".join(digest + self._keys[digest] for digest in new),
        )
        keys = await assembly.evaluator_keys(self._site, self._terms)
        context = self._context(round_index, "update-keys", self._site.address)
        sealed = seal(encode(body), keys, context, entropy=self._site.entropy)
        kept = len(new).to_bytes(_COUNT_BYTES, "big") + b"".join(new) + sealed
        await self._post(round_index, journal.record(f"{prefix}{len(said):04d}", kept), ballots)

    async def _post(self, round_index: int, kept: bytes, ballots: Ballots) -> None:
        """Post what was journalled: of how many updates, which, and the sealed keys."""
        end = _COUNT_BYTES + DIGEST_BYTES * int.from_bytes(kept[:_COUNT_BYTES], "big")
        blob = await self._board.put(f"round/{round_index}/shown", kept[end:])
        message = typed.MaskedAnswer(self._job_id, round_index, int(Phase.GATE), ZERO_DIGEST, blob)
        await ballots.sign(_topic(round_index), SignedAnswer, message)
        named = range(_COUNT_BYTES, end, DIGEST_BYTES)
        self._shown[round_index].update(Digest(kept[at : at + DIGEST_BYTES]) for at in named)

    async def _shown_by_others(self, round_index: int, digest: Digest) -> list[bytes]:
        """Every key that an evaluator has shown for an update."""
        if self._others[0] != round_index:
            self._others = round_index, self._none_shown()
        shown = await self._others[1].read(
            await self._board.read(_topic(round_index), SignedAnswer),
            check=lambda record: self._check(round_index, record),
            fetch=lambda record: self._keys_in(round_index, record),
        )
        return [keys[digest] for keys in shown if digest in keys]

    def _none_shown(self) -> ShownKeys:
        return ShownKeys(SHOWN_EACH * self._terms.plan.maximum_owners)

    def _check(self, round_index: int, record: SignedAnswer) -> None:
        seats = [seat.address for seat in self._terms.evaluators]
        if (record.job_id, record.round_index) != (self._job_id, round_index) or record.signer not in seats:
            raise MessageRefused("shows no keys of this round", where="SignedAnswer")
        verify(record, self._site.domain())

    async def _keys_in(self, round_index: int, record: SignedAnswer) -> Mapping[Digest, bytes]:
        limit = 2 * KEY_BYTES * self._terms.plan.maximum_owners + RECORD_BYTES
        blob = await self._site.blobs.get(
            Digest(record.answer_digest), max_bytes=sealed_bytes(limit, len(self._terms.evaluators))
        )
        context = self._context(round_index, "update-keys", record.signer)
        body = decode(open_sealed(blob, self._key, context, max_bytes=limit), AnswerBody, max_bytes=limit)
        return pairs_in(body.words)

    def _context(self, round_index: int, kind: str, sender: Address) -> SealContext:
        return assembly.round_context(self._site, self._job_id, round_index, kind, sender)


def _topic(round_index: int) -> str:
    return f"round/{round_index}/keys"
