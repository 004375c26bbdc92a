"""The bulletin board of a job: records that anybody may post, read once and verified."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

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
    decode,
    encode,
    verify,
)
from galaxylearning.nodes.site import Site
from galaxylearning.units import Address, Digest

MAX_LISTED = 20_000
"""Blobs looked at under one topic. Whoever is crowded out has the direct path."""

_R = TypeVar("_R", bound=Record)
_S = TypeVar("_S", bound=SignedRecord)


class Board:
    """The topics of one job. Records are fetched and verified once; what is malformed is left alone."""

    def __init__(self, site: Site, job_id: int) -> None:
        self._site = site
        self.prefix = f"job/{site.ledger.chain_id}/{site.ledger.address_of('jobs').lower()}/{job_id}"
        self._records: dict[tuple[str, Digest], Record | None] = {}
        self._stated: dict[Digest, bytes | None] = {}

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
        """Well-formed records of a topic, by digest; the rest is skipped."""
        found: dict[Digest, _R] = {}
        for digest in (await self._site.blobs.list(self.topic(name)))[:MAX_LISTED]:
            key = (name, digest)
            if key not in self._records:
                try:
                    data = await self._site.blobs.get(digest, max_bytes=max_bytes)
                    self._records[key] = decode(data, kind, max_bytes=max_bytes)
                    self._site.pace.stir()
                except (BlobMissing, BlobDamaged):
                    continue
                except Refused:
                    self._records[key] = None
            record = self._records[key]
            if isinstance(record, kind):
                found[digest] = record
        return found

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
