"""Answers of members of the committee, as one evaluator can read them: sealed, signed, some of them junk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from galaxylearning.crypto.seal import (
    SealContext,
    SealingKey,
    is_revealed,
    open_revealed,
    open_sealed,
    reveal_content_key,
    sealed_bytes,
)
from galaxylearning.errors import BlobDamaged, BlobMissing, BlobRefused, MessageRefused, Refused
from galaxylearning.messages.records import AnswerBody, SignedAnswer, decode, verify
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.asked import RECORD_BYTES, Asked, Phase, answer_kind, is_about, keys_kind
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.machine import JobState
from galaxylearning.secagg.opener import check_words
from galaxylearning.secagg.plan import MaskingPlan
from galaxylearning.units import Address, Digest

KEY_BYTES: Final = 32
"""Of a content key, and of the digest of the answer that it opens."""

VAIN_TRIED: Final = 8
"""So many records of a seat's keys are looked at, at most, that cannot be had or that show nothing."""


class Answers:
    """Reads the answers of the phase at hand; each once."""

    def __init__(
        self, site: Site, board: Board, terms: Terms, job_id: int, key: SealingKey, plan: MaskingPlan
    ) -> None:
        self._site, self._board, self._terms, self._job_id = site, board, terms, job_id
        self._key, self._plan = key, plan
        self._words: dict[tuple[str, Digest, Digest], bytes | None] = {}
        """What a record says as an answer to one question."""
        self.content_keys: dict[Digest, bytes] = {}
        """Of the answers that could be read."""
        self.closed: set[Digest] = set()
        """Answers that seats signed and that we cannot open."""
        self._shown = ShownKeys(2 * len(self._terms.evaluators))

    def forget(self) -> None:
        """The phase is over."""
        for known in (self._words, self.content_keys, self.closed):
            known.clear()
        self._shown = ShownKeys(2 * len(self._terms.evaluators))

    async def words_of(
        self, asked: Asked, digest: Digest, record: SignedAnswer, state: JobState
    ) -> bytes | None:
        """The packed answer that a record speaks of, or None where it is none to this question.

        Raises:
            BlobMissing, BlobDamaged: it cannot be had yet.
        """
        about = asked.topic, asked.digest, digest
        # Looked up for signed answers that are closed to us only: anybody may post what is none.
        if digest in self.closed and digest in await self._shown_keys(asked, state):
            self.closed.discard(digest)
            self._words.pop(about, None)
        if about not in self._words:
            try:
                self._words[about] = await self._opened_answer(asked, digest, record, state)
            except BlobDamaged:
                raise
            except Refused:
                self._words[about] = None
        return self._words[about]

    async def _opened_answer(
        self, asked: Asked, digest: Digest, record: SignedAnswer, state: JobState
    ) -> bytes:
        kind, limit = answer_kind(asked.phase), asked.answer_bytes + RECORD_BYTES
        blob = await self._envelope(asked, record, state, limit)
        context = self._context(asked, kind, record.signer)
        try:
            key = reveal_content_key(blob, self._key, context, max_bytes=limit)
        except BlobRefused:
            # Its author may have sealed it to some of us only: those may have shown how to open it.
            self.closed.add(digest)
            shown = (await self._shown_keys(asked, state)).get(digest, set())
            key = next(
                (one for one in sorted(shown) if is_revealed(blob, one, context, max_bytes=limit)), b""
            )
        body = decode(open_revealed(blob, key, context, max_bytes=limit), AnswerBody, max_bytes=limit)
        given = (body.job_id, body.round_index, body.phase, body.evaluator, len(body.words))
        wanted = (self._job_id, asked.round_index, asked.phase, record.signer, asked.answer_bytes)
        if given != wanted:
            raise MessageRefused(f"{given}; {wanted} allowed", where="AnswerBody")
        at = 0
        for size, width in asked.parts:
            check_words(self._plan, body.words[at : at + size], width, is_sum=asked.phase is Phase.SUM)
            at += size
        self.closed.discard(digest)
        self.content_keys[digest] = key
        return body.words

    async def _shown_keys(self, asked: Asked, state: JobState) -> Mapping[Digest, set[bytes]]:
        """What seats have shown in this phase as content keys of answers, by the answer's record."""
        found: dict[Digest, set[bytes]] = {}
        for keys in await self._shown.read(
            await self._board.read(f"{asked.topic}/keys", SignedAnswer),
            check=lambda record: self._check(asked, record, state),
            fetch=lambda record: self._keys_in(asked, record, state),
        ):
            for answer, key in keys.items():
                found.setdefault(answer, set()).add(key)
        return found

    async def _keys_in(self, asked: Asked, record: SignedAnswer, state: JobState) -> Mapping[Digest, bytes]:
        limit = len(state.evaluators) * 2 * KEY_BYTES + RECORD_BYTES
        blob = await self._envelope(asked, record, state, limit)
        context = self._context(asked, keys_kind(asked.phase), record.signer)
        body = decode(open_sealed(blob, self._key, context, max_bytes=limit), AnswerBody, max_bytes=limit)
        return pairs_in(body.words)

    def _check(self, asked: Asked, record: SignedAnswer, state: JobState) -> None:
        if record.signer not in state.seats or not is_about(record, asked, self._job_id):
            raise MessageRefused("is no answer of a seat to this question", where="SignedAnswer")
        verify(record, self._site.domain())

    async def _envelope(self, asked: Asked, record: SignedAnswer, state: JobState, limit: int) -> bytes:
        self._check(asked, record, state)
        size = sealed_bytes(limit, len(self._terms.evaluators))
        return await self._site.blobs.get(Digest(record.answer_digest), max_bytes=size)

    def _context(self, asked: Asked, kind: str, sender: Address) -> SealContext:
        return assembly.round_context(self._site, self._job_id, asked.round_index, kind, sender)


class ShownKeys:
    """Content keys that seats have shown on one topic: of each seat records of ``most`` keys together.

    One that shows more hides only its own. What was fetched is not fetched again. A record that shows nothing
    takes an eighth of its seat's room, not all: anybody may post here what a seat signed as its answer.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._is_signed: dict[Digest, bool] = {}
        self._keys: dict[Digest, Mapping[Digest, bytes]] = {}

    async def read(
        self,
        records: Mapping[Digest, SignedAnswer],
        *,
        check: Callable[[SignedAnswer], None],
        fetch: Callable[[SignedAnswer], Awaitable[Mapping[Digest, bytes]]],
    ) -> list[Mapping[Digest, bytes]]:
        """What each record that can be had shows; ``check`` refuses what no seat signed for this topic."""
        given: Counter[Address] = Counter()
        in_vain = -(-self._most // VAIN_TRIED)
        found = []
        for digest, record in sorted(records.items()):
            if given[record.signer] >= self._most or not self._is_shown(digest, record, check):
                continue
            if digest not in self._keys:
                try:
                    self._keys[digest] = await fetch(record)
                except (BlobMissing, BlobDamaged):
                    given[record.signer] += in_vain
                    continue
                except Refused:
                    self._keys[digest] = {}
            given[record.signer] += len(self._keys[digest]) or in_vain
            found.append(self._keys[digest])
        return found

    def _is_shown(self, digest: Digest, record: SignedAnswer, check: Callable[[SignedAnswer], None]) -> bool:
        if digest not in self._is_signed:
            try:
                check(record)
            except MessageRefused:
                self._is_signed[digest] = False
            else:
                self._is_signed[digest] = True
        return self._is_signed[digest]


def pairs_in(words: bytes) -> Mapping[Digest, bytes]:
    """Digests, each with the content key that follows it; what is left over at the end is dropped."""
    whole = [words[at : at + KEY_BYTES] for at in range(0, len(words), KEY_BYTES)]
    return {Digest(name): key for name, key in zip(whole[::2], whole[1::2], strict=False)}
