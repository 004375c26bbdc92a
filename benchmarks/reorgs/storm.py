"""What takes blocks back while nodes work, and what watches over what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from benchmarks.reorgs.anvil import BLOCK_S, Chain

from galaxylearning.chain.transport import NodeRefused
from galaxylearning.ports import BlobStore, Call, ChainLog, Ledger, Receipt, Signer
from galaxylearning.units import Address, Digest

MAX_DEPTH: Final = 32


@dataclass
class Storm:
    """Reorganises the chain, by chance, between any two things that nodes ask of it.

    Of the transactions in the blocks that go, none, the first few or all are mined again in the new ones. The
    first block of the play, ``floor``, is never touched.
    """

    chain: Chain
    rng: Random
    often: float
    """Chance per request."""
    floor: int = 0
    is_on: bool = False
    phase: str = "enrolling"
    struck: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many reorganisations there were, by phase and depth."""

    async def maybe(self) -> None:
        """Strike, or not."""
        if self.is_on and self.rng.random() < self.often:
            await self.strike(self.rng.randint(1, MAX_DEPTH))

    async def strike(self, depth: int) -> None:
        """Take ``depth`` blocks back, fewer where there are not so many."""
        async with self.chain.lock:
            height = await self.chain.height()
            depth = min(depth, height - self.floor)
            if depth < 1:
                return
            dropped = await self.chain.transactions(depth)
            kept = dropped[: self.rng.choice((0, 0, self.rng.randint(0, len(dropped)), len(dropped)))]
            places = sorted(self.rng.randrange(depth) for _ in kept)
            try:
                await self.chain.reorganise(depth, list(zip(kept, places, strict=True)))
            except NodeRefused:
                # anvil does not always find what it needs for that. Where it has dropped the blocks all the
                # same, others come in their place; where not, nothing has happened.
                left = height - await self.chain.height()
                if left <= 0:
                    return
                await self.chain.ask("anvil_mine", hex(left), hex(BLOCK_S))
            self.struck[self.phase, depth] += 1


class Shaken:
    """A ledger on a chain in a storm."""

    def __init__(self, ledger: Ledger, storm: Storm) -> None:
        self._ledger, self._storm = ledger, storm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def follow(self, since_block: int) -> ChainLog:
        """See ``ports.Ledger``."""
        found = await self._ledger.follow(since_block)
        await self._storm.maybe()
        return found

    async def submit(self, call: Call, signer: Signer) -> Receipt:
        """See ``ports.Ledger``."""
        await self._storm.maybe()
        receipt = await self._ledger.submit(call, signer)
        await self._storm.maybe()
        return receipt


class CountingSigner:
    """Counts what is signed."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.count = 0

    @property
    def address(self) -> Address:
        """Of the account."""
        return self._signer.address

    def sign_digest(self, digest: bytes) -> bytes:
        """See ``ports.Signer``."""
        self.count += 1
        return self._signer.sign_digest(digest)

    def sign_transaction(self, transaction: Mapping[str, Any]) -> bytes:
        """See ``ports.Signer``."""
        self.count += 1
        return self._signer.sign_transaction(transaction)


class WatchedBlobs:
    """A store that remembers what its user put under which topic."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.put_under: dict[str, set[Digest]] = {}

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """See ``ports.BlobStore``."""
        digest = await self._blobs.put(data, topic=topic)
        self.put_under.setdefault(topic, set()).add(digest)
        return digest

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """See ``ports.BlobStore``."""
        return await self._blobs.get(digest, max_bytes=max_bytes)

    async def list(self, topic: str) -> Sequence[Digest]:
        """See ``ports.BlobStore``."""
        return await self._blobs.list(topic)
