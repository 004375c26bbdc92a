"""The bulletin board of a job: records that anybody may post, read once and verified.

Anybody may post junk, too. It is looked at once and costs time; it hides nothing for good: each look goes on
with what was not looked at before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

import numpy as np

from galaxylearning.errors import (
    BlobDamaged,
    BlobMissing,
    MessageRefused,
    Refused,
)
from galaxylearning.messages.records import (
    MAX_SIGNED_BYTES,
    Record,
    SignedRecord,
    Signers,
    decode,
    encode,
    verify,
)
from galaxylearning.nodes.site import Site
from galaxylearning.units import Address, Digest

MAX_FETCHED: Final = 20_000
"""New blobs that are fetched from one topic at one look."""

MAX_RETRIED: Final = 1_000
"""Blobs that were not to be had, asked for again at one look."""

MAX_REMEMBERED: Final = 1 << 20
"""Digests of junk that are remembered of all topics together, which takes some 130 MB."""

_R = TypeVar("_R", bound=Record)
_S = TypeVar("_S", bound=SignedRecord)


@dataclass(slots=True)
class _Topic:
    """What was looked at of a topic: records, what is none, and what could not be had, longest ago first."""

    records: dict[Digest, Record] = field(default_factory=dict)
    junk: set[Digest] = field(default_factory=set)
    absent: dict[Digest, None] = field(default_factory=dict)


class Board:
    """The topics of one job. Records are fetched and verified once; what is malformed is left alone."""

    def __init__(self, site: Site, job_id: int) -> None:
        self._site = site
        self.prefix = f"job/{site.ledger.chain_id}/{site.ledger.address_of('jobs').lower()}/{job_id}"
        self._topics: dict[str, _Topic] = {}
        self._stated: dict[Digest, bytes | None] = {}
        self.signers: Signers = {}
        """Who signed the records that a whole cohort is derived from at every look."""

    def topic(self, name: str) -> str:
        """The full name of a topic of this job."""
        return f"{self.prefix}/{name}"

    async def put(self, name: str, data: bytes) -> Digest:
        """Store a blob under a topic of this job."""
        return await self._site.blobs.put(data, topic=self.topic(name))

    async def post(self, name: str, record: Record) -> Digest:
        """Store a record under a topic of this job."""
        return await self.put(name, encode(record))

    async def read(self, name: str, kind: type[_R], *, max_bytes: int = MAX_SIGNED_BYTES) -> dict[Digest, _R]:
        """Well-formed records of a topic, ascending by digest; the rest is skipped.

        At most ``MAX_FETCHED`` blobs are new at a look; the next look goes on with others.
        What was read once stays, whatever is listed later.
        """
        topic = self._topics[name] = self._topics.pop(name, _Topic())  # The last one read comes last.
        listed = await self._site.blobs.list(self.topic(name))
        known = (topic.records, topic.junk, topic.absent)
        new = [digest for digest in listed if not any(digest in one for one in known)]
        still = topic.absent.keys() & set(listed)
        topic.absent = {digest: None for digest in topic.absent if digest in still}
        for digest in [*self._due(new), *islice(topic.absent, MAX_RETRIED)]:
            topic.absent.pop(digest, None)
            try:
                data = await self._site.blobs.get(digest, max_bytes=max_bytes)
                topic.records[digest] = decode(data, kind, max_bytes=max_bytes)
                self._site.pace.stir()
            except (BlobMissing, BlobDamaged):
                topic.absent[digest] = None
            except Refused:
                topic.junk.add(digest)
        self._forget()
        return {digest: one for digest, one in sorted(topic.records.items()) if isinstance(one, kind)}

    def _due(self, new: list[Digest]) -> list[Digest]:
        """What of ``new`` is looked at now.

        Half of it in the order listed, in which no store crowds out another; half drawn by lot, for a store
        that lists others each time could put off for ever what comes behind them.
        """
        if len(new) <= MAX_FETCHED:
            return new
        first, rest = new[: MAX_FETCHED // 2], new[MAX_FETCHED // 2 :]
        rng = np.random.default_rng(int.from_bytes(self._site.entropy(16), "big"))
        lots = rng.choice(len(rest), MAX_FETCHED - len(first), replace=False)
        return first + [rest[lot] for lot in lots.tolist()]

    def _forget(self) -> None:
        """Bound what is remembered of junk: forget it of those topics first that were read longest ago."""
        remembered = sum(len(topic.junk) + len(topic.absent) for topic in self._topics.values())
        for topic in self._topics.values():
            if remembered <= MAX_REMEMBERED:
                return
            remembered -= len(topic.junk) + len(topic.absent)
            topic.junk, topic.absent = set(), {}

    async def votes(
        self, name: str, kind: type[_S], seats: Iterable[Address]
    ) -> dict[bytes, dict[Address, _S]]:
        """Signed statements of seated evaluators, grouped by what was stated (its struct hash)."""
        allowed = frozenset(seats)
        found: dict[bytes, dict[Address, _S]] = {}
        for digest, record in (await self.read(name, kind)).items():
            if record.signer not in allowed:
                continue
            if digest not in self._stated:
                self._stated[digest] = self._statement(record)
            statement = self._stated[digest]
            if statement is not None:
                found.setdefault(statement, {})[record.signer] = record
        return found

    def _statement(self, record: SignedRecord) -> bytes | None:
        """The struct hash of what was stated; None where its signer did not sign it."""
        try:
            verify(record, self._site.domain())
        except MessageRefused:
            return None
        return bytes(record.message.struct_hash())
