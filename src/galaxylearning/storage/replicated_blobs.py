"""Several blob stores as one: written to all of them, read from the first that gives the right bytes.

No store is believed. One that gives wrong bytes, none, or none in time is named in a report, and what it
should hold is put right from a store that holds it: damage at once, what was missed while it was away as
soon as it answers again. A store that did not answer is left alone for a while, so that it slows the others
down once and not each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, GalaxyError
from galaxylearning.storage.blob_names import (
    DEFAULT_MAX_BLOB_BYTES,
    MAX_LISTED,
    BlobAltered,
    RestorableBlobStore,
    StoreLate,
    StoreUnreachable,
    check_digest,
    check_topic,
    checked_blob,
    too_large,
)
from galaxylearning.units import Digest

REST_S: Final = 30.0
MAX_REST_S: Final = 600.0
"""A store that does not answer rests for ``REST_S``, and twice as long each time again, up to this."""

MAX_MISSED: Final = 100_000
"""The most entries that are remembered for stores that were away; lists bring back what is forgotten."""

CATCH_UP: Final = 8
"""How many missed entries a store is brought after each call that it answered."""

FaultKind: TypeAlias = Literal["lost", "flipped", "truncated", "swapped", "late", "unreachable", "refused"]
_Names: TypeAlias = list[str]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BlobFault:
    """What one store did wrong. ``digest`` is None where it was about a topic.

    ``lost``: it has not the blob, and another has. ``flipped``: as many bytes, and most of them the same.
    ``truncated``: only the first bytes. ``swapped``: other bytes altogether. ``late``: no answer in time.
    ``unreachable``: no answer. ``refused``: an answer that was neither.
    """

    store: str
    kind: FaultKind
    digest: Digest | None
    detail: str
    is_repaired: bool


def altered_kind(found: bytes, right: bytes) -> FaultKind:
    """How ``found`` differs from ``right``, which it is not."""
    if len(found) < len(right) and right.startswith(found):
        return "truncated"
    if len(found) == len(right):
        differing = int.from_bytes(found, "big") ^ int.from_bytes(right, "big")
        # Unrelated bytes differ in half of their bits.
        if differing.bit_count() * 4 <= 8 * len(right):
            return "flipped"
    return "swapped"


class ReplicatedBlobStore:
    """Implements ``ports.BlobStore`` over several stores, by name.

    A write succeeds when ``copies`` stores hold it. ``patience_s`` is for one answer of one store, whatever
    the store's own patience. ``monotonic_s`` is a clock for resting; ``report`` is told of every fault.
    """

    def __init__(
        self,
        stores: Mapping[str, RestorableBlobStore],
        *,
        copies: int = 1,
        patience_s: float = 600.0,
        max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES,
        monotonic_s: Callable[[], float],
        report: Callable[[BlobFault], None],
    ) -> None:
        if not 1 <= copies <= len(stores):
            raise ValueError(f"copies must be from 1 to {len(stores)}, not {copies}")
        self._stores = dict(stores)
        self._copies, self._patience_s = copies, patience_s
        self._max_blob_bytes = max_blob_bytes
        self._monotonic_s, self._report = monotonic_s, report
        self._rests_until_s = dict.fromkeys(stores, float("-inf"))
        self._rest_s = dict.fromkeys(stores, REST_S)
        self._missed: dict[str, dict[tuple[Digest, str], None]] = {name: {} for name in stores}
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for store in self._stores.values():
            if isinstance(store, AbstractAsyncContextManager):
                await self._opened.enter_async_context(store)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    @property
    def missed(self) -> dict[str, int]:
        """How many entries each store is known to lack."""
        return {name: len(entries) for name, entries in self._missed.items()}

    async def put(self, data: bytes, *, topic: str) -> Digest:
        """Store ``data`` in all stores and list it under ``topic``; see ``ports.BlobStore``.

        Raises:
            BlobRefused: too large for every store, or the topic's name is malformed.
            StorageError: fewer than ``copies`` stores hold it.
        """
        check_topic(topic)
        digest = blake3_digest(data)
        # Stores at rest are asked only where the others are too few.
        awake = self._awake()
        answers = await self._ask(awake, lambda store: store.put(data, topic=topic), digest)
        if _successes(answers) < self._copies:
            resting = [name for name in self._stores if name not in awake]
            answers |= await self._ask(resting, lambda store: store.put(data, topic=topic), digest)
        for name in self._stores:
            if isinstance(answers.get(name), GalaxyError | None):
                self._miss(name, digest, topic)
        self._check_held(answers, digest)
        await self._catch_up(name for name, answer in answers.items() if not isinstance(answer, GalaxyError))
        return digest

    async def restore(self, data: bytes) -> None:
        """Let the stores hold ``data``, listed nowhere.

        Raises:
            BlobRefused: too large for every store.
            StorageError: fewer than ``copies`` stores hold it.
        """
        digest = blake3_digest(data)
        answers = await self._ask(list(self._stores), lambda store: store.restore(data), digest)
        self._check_held(answers, digest)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified, from whichever store has it; see ``ports.BlobStore``.

        Raises:
            BlobMissing: every store answered, and none has it.
            BlobRefused: larger than ``max_bytes``, or altered in every store that has it.
            StorageError: no store gave it, and one that may have it did not answer.
        """
        name = check_digest(digest)
        failures: dict[str, GalaxyError] = {}
        awake = self._awake()
        for store in (*awake, *(one for one in self._stores if one not in awake)):
            try:
                data = await self._read(store, digest, max_bytes)
            except GalaxyError as error:
                failures[store] = error
                self._rest(store, error)
                continue
            for failed, failure in failures.items():
                await self._put_right(failed, failure, digest, data)
            return data
        if all(isinstance(failure, BlobMissing) for failure in failures.values()):
            # Perhaps it was never put: nobody is at fault.
            raise BlobMissing("is in none of the stores", where=f"blob {name}")
        for store, failure in failures.items():
            self._report(BlobFault(store, _kind(failure, None), digest, str(failure), False))
        raise _most_telling(failures.values())

    async def list(self, topic: str) -> Sequence[Digest]:
        """Digests listed under ``topic`` in any store, ascending; the first 100,000 where there are more.

        Raises:
            BlobRefused: the topic's name is malformed.
            StorageError: no store answered.
        """
        check_topic(topic)
        awake = self._awake()
        answers = await self._ask(awake, lambda store: store.list(topic), None)
        if not _successes(answers):
            resting = [name for name in self._stores if name not in awake]
            answers |= await self._ask(resting, lambda store: store.list(topic), None)
        listed = {
            name: set(answer) for name, answer in answers.items() if not isinstance(answer, GalaxyError)
        }
        if not listed:
            raise _most_telling(answer for answer in answers.values() if isinstance(answer, GalaxyError))
        everything = sorted(set[Digest]().union(*listed.values()))[:MAX_LISTED]
        for name, digests in listed.items():
            for digest in everything:
                if digest not in digests:
                    self._miss(name, digest, topic)
        await self._catch_up(listed)
        return everything

    async def check(self, topic: str, *, max_bytes: int) -> int:
        """Read every blob of a topic from every store, report and put right what is wrong; how many blobs.

        Raises:
            StorageError: no store lists the topic.
        """
        digests = await self.list(topic)
        for digest in digests:
            right, failures = None, {}
            for name in self._stores:
                try:
                    right = await self._read(name, digest, max_bytes)
                except GalaxyError as error:
                    failures[name] = error
            for name, failure in failures.items():
                if right is None:
                    self._report(BlobFault(name, _kind(failure, None), digest, str(failure), False))
                else:
                    await self._put_right(name, failure, digest, right)
        await self._catch_up(self._awake(), most=MAX_MISSED)
        return len(digests)

    def _check_held(self, answers: Mapping[str, object], digest: Digest) -> None:
        held = _successes(answers)
        if held >= self._copies:
            return
        refusals = [answer for answer in answers.values() if isinstance(answer, GalaxyError)]
        if all(isinstance(refusal, BlobRefused) for refusal in refusals):
            raise refusals[0]
        raise StoreUnreachable(
            f"{held} of {len(self._stores)} stores hold it, {self._copies} must; {refusals[0]}",
            where=f"blob {digest.hex()}",
        )

    # ---- one store at a time

    async def _answer(self, name: str, call: Callable[[RestorableBlobStore], Coroutine[Any, Any, _T]]) -> _T:
        """A store's answer to ``call``.

        Raises:
            GalaxyError: whatever went wrong; StoreLate where it took too long.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                answer = await call(self._stores[name])
            self._rest_s[name] = REST_S
            return answer
        except TimeoutError as error:
            raise StoreLate(f"no answer within {self._patience_s:g} s", where=name) from error

    async def _read(self, name: str, digest: Digest, max_bytes: int) -> bytes:
        """A blob as one store gives it, verified whatever the store says."""
        found = await self._answer(name, lambda store: store.get(digest, max_bytes=max_bytes))
        if len(found) > max_bytes:
            raise too_large(digest.hex(), max_bytes)
        return checked_blob(digest, found)

    async def _ask(
        self,
        names: Sequence[str],
        call: Callable[[RestorableBlobStore], Coroutine[Any, Any, _T]],
        digest: Digest | None,
    ) -> dict[str, _T | GalaxyError]:
        """The answers of several stores, asked at once; failures are answers, and stores that fail rest."""

        async def one(name: str) -> _T | GalaxyError:
            try:
                return await self._answer(name, call)
            except GalaxyError as error:
                if self._rest(name, error):
                    self._report(BlobFault(name, _kind(error, None), digest, str(error), False))
                return error

        answers = await asyncio.gather(*(one(name) for name in names))
        return dict(zip(names, answers, strict=True))

    async def _put_right(self, name: str, failure: GalaxyError, digest: Digest, right: bytes) -> None:
        """Report what a store did wrong, and repair it where it is damage."""
        kind = _kind(failure, right)
        is_repaired = False
        if kind not in ("late", "unreachable", "refused"):
            try:
                await self._answer(name, lambda store: store.restore(right))
                is_repaired = True
            except GalaxyError as error:
                self._rest(name, error)
        self._report(BlobFault(name, kind, digest, str(failure), is_repaired))

    async def _catch_up(self, names: Iterable[str], *, most: int = CATCH_UP) -> None:
        """Bring stores some of what they missed."""
        for name in names:
            missed = self._missed[name]
            for digest, topic in list(islice(missed, most)):
                if not await self._bring(name, digest, topic):
                    break
                missed.pop((digest, topic), None)

    async def _bring(self, name: str, digest: Digest, topic: str) -> bool:
        """Copy one blob to a store and list it there; False where the store does not take it now."""
        for other in self._awake():
            if other == name:
                continue
            try:
                data = await self._read(other, digest, self._max_blob_bytes)
            except GalaxyError as error:
                self._rest(other, error)
                continue
            try:
                await self._answer(name, partial(_put, data=data, topic=topic))
            except BlobRefused:
                return True  # It never will.
            except GalaxyError as error:
                self._rest(name, error)
                return False
            return True
        return True  # Nobody has it now. A list that still names it will bring it back here.

    def _miss(self, name: str, digest: Digest, topic: str) -> None:
        if len(self._missed[name]) < MAX_MISSED:
            self._missed[name].setdefault((digest, topic))

    def _awake(self) -> _Names:
        now_s = self._monotonic_s()
        return [name for name, until_s in self._rests_until_s.items() if until_s <= now_s]

    def _rest(self, name: str, error: GalaxyError) -> bool:
        """Leave a store alone for a while where it did not answer; whether ``error`` is its fault at all."""
        if isinstance(error, StoreUnreachable):
            self._rests_until_s[name] = self._monotonic_s() + self._rest_s[name]
            self._rest_s[name] = min(2 * self._rest_s[name], MAX_REST_S)
        return not isinstance(error, BlobRefused | BlobMissing)


async def _put(store: RestorableBlobStore, *, data: bytes, topic: str) -> Digest:
    return await store.put(data, topic=topic)


def _successes(answers: Mapping[str, object]) -> int:
    return sum(not isinstance(answer, GalaxyError) for answer in answers.values())


def _kind(failure: GalaxyError, right: bytes | None) -> FaultKind:
    if isinstance(failure, BlobMissing):
        return "lost"
    if isinstance(failure, BlobAltered):
        return "swapped" if right is None else altered_kind(failure.data, right)
    if isinstance(failure, StoreLate):
        return "late"
    if isinstance(failure, StoreUnreachable):
        return "unreachable"
    # A blob that is larger than its reader allows, where another store has one that is not.
    return "swapped" if isinstance(failure, BlobRefused) and right is not None else "refused"


def _most_telling(failures: Iterable[GalaxyError]) -> GalaxyError:
    """The failure to raise: one that may pass, before one that says what is wrong, before an absence."""
    ranks = (StoreUnreachable, BlobAltered, BlobRefused, GalaxyError)
    return min(
        failures,
        key=lambda failure: (
            isinstance(failure, BlobMissing),
            next(rank for rank, kind in enumerate(ranks) if isinstance(failure, kind)),
        ),
    )
