"""Three stores in memory as one, each of which can be damaged, fail, hang or lie."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import anyio

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.storage.blobs import MemoryBlobStore
from galaxylearning.storage.replicated_blobs import BlobFault, ReplicatedBlobStore
from galaxylearning.units import Digest

DATA = bytes(range(64))
DIGEST = blake3_digest(DATA)


class Patient(MemoryBlobStore):
    """A store in memory that can be damaged, or made to fail or to hang; it counts how often it is asked."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self.failing: Exception | None = None
        self.lies: bytes | None = None
        self.hangs = False
        self.invented: list[Digest] = []
        self.n_asked = 0

    async def _falter(self) -> None:
        self.n_asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.failing is not None:
            raise self.failing

    async def put(self, data: bytes, *, topic: str) -> Digest:
        await self._falter()
        return await super().put(data, topic=topic)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        await self._falter()
        return self.lies if self.lies is not None else await super().get(digest, max_bytes=max_bytes)

    async def restore(self, data: bytes) -> None:
        await self._falter()
        self.lies = None
        await super().restore(data)

    async def list(self, topic: str) -> Sequence[Digest]:
        await self._falter()
        return self.invented or await super().list(topic)

    def damage(self, digest: Digest, data: bytes | None) -> None:
        """Put other bytes under a digest, or none."""
        if data is None:
            del self._blobs[digest]
        else:
            self._blobs[digest] = data


class Cast:
    """Three stores together, a clock, and what was reported."""

    def __init__(self, copies: int = 1, **options: Any) -> None:
        self.a, self.b, self.c = Patient(), Patient(), Patient()
        self.faults: list[BlobFault] = []
        self.now_s = 0.0
        self.store = ReplicatedBlobStore(
            {"a": self.a, "b": self.b, "c": self.c},
            copies=copies,
            monotonic_s=lambda: self.now_s,
            report=self.faults.append,
            **options,
        )

    @property
    def told(self) -> list[tuple[str, str, bool]]:
        return [(fault.store, fault.kind, fault.is_repaired) for fault in self.faults]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, in bounded time."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    anyio.run(bounded)
