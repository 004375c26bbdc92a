"""Several blob stores as one: written to all of them, read from the first that gives the right bytes.

No store is believed. One that gives wrong bytes, none, or none in time is named in a report, and what it
should hold is put right from a store that holds it: damage at once, what was missed while it was away as
soon as it answers again. One store cannot hold up the others: once enough have answered it has a short grace,
and a store that did not answer is left alone for many times as long as it was waited for. Nor can it crowd
them out: lists are merged in turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobMissing, BlobRefused, GalaxyError
from galaxylearning.ports import MAX_LISTED
from galaxylearning.storage.blob_names import (
    DEFAULT_MAX_BLOB_BYTES,
    MIN_BYTES_PER_S,
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

REST_RATIO: Final = 10
"""It rests at least so many times as long as it was waited for, which so is a small share of the time."""

GRACE_S: Final = 10.0
"""Stores asked at once have so long once enough others answered, beside the time for what they are sent."""

MAX_MISSED: Final = 100_000
"""The most entries that are remembered for stores that were away; lists bring back what is forgotten."""

CATCH_UP: Final = 8
"""How many missed entries a store is brought after each call that it answered."""

FaultKind: TypeAlias = Literal["lost", "flipped", "truncated", "swapped", "late", "unreachable", "refused"]
_Names: TypeAlias = list[str]
_Call: TypeAlias = Literal["put", "restore", "get", "list"]
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
    the store's own patience; where enough others have answered it ends after ``GRACE_S`` and the time that
    what is sent takes at the slowest rate allowed. ``monotonic_s`` is a clock for resting; ``report`` is told
    of every fault, but of entries that a store lists and does not give at most every ``REST_S``.
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
        self._rest_s: dict[tuple[str, _Call], float] = {}
        # By entry, the store that lists it; nobody where a write told of it.
        self._missed: dict[str, dict[tuple[Digest, str], str | None]] = {name: {} for name in stores}
        # What a store lists and nobody gives, oldest first.
        self._unfounded: dict[Digest, None] = {}
        self._named_until_s = dict.fromkeys(stores, float("-inf"))
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
        write = partial(_put, data=data, topic=topic)
        answers = await self._ask(awake, "put", write, digest, self._copies, len(data))
        if (lacking := self._copies - _successes(answers)) > 0:
            resting = [name for name in self._stores if name not in awake]
            answers |= await self._ask(resting, "put", write, digest, lacking, len(data))
        for name in self._stores:
            if isinstance(answers.get(name), GalaxyError | None):
                self._miss(name, digest, topic, None)
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
        names = list(self._stores)
        restore = partial(_restore, data=data)
        answers = await self._ask(names, "restore", restore, digest, self._copies, len(data))
        self._check_held(answers, digest)

    async def get(self, digest: Digest, *, max_bytes: int) -> bytes:
        """The blob with this digest, verified, from whichever store has it; see ``ports.BlobStore``.

        Raises:
            BlobMissing: every store answered, one that it has it not, and none gave it.
            BlobRefused: larger than ``max_bytes`` in every store, or altered in those that have it.
            StorageError: no store gave it, and one that may have it did not answer, or all refused.
        """
        name = check_digest(digest)
        failures: dict[str, GalaxyError] = {}
        awake = self._awake()
        for store in (*awake, *(one for one in self._stores if one not in awake)):
            try:
                data = await self._read(store, digest, max_bytes)
            except GalaxyError as error:
                failures[store] = error
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
        """Digests listed under ``topic`` in any store, of each store in turns; the first 100,000 of them.

        So entry number i of a store is among the first ``i * len(stores)``, whatever the others list. Stores
        that list the same give it in ascending order.

        Raises:
            BlobRefused: the topic's name is malformed.
            StorageError: no store answered.
        """
        check_topic(topic)
        awake, look = self._awake(), partial(_list, topic=topic)
        answers = await self._ask(awake, "list", look, None, 1)
        if not _successes(answers):
            resting = [name for name in self._stores if name not in awake]
            answers |= await self._ask(resting, "list", look, None, 1)
        listed = {name: answer for name, answer in answers.items() if not isinstance(answer, GalaxyError)}
        if not listed:
            raise _most_telling(answer for answer in answers.values() if isinstance(answer, GalaxyError))
        everything = _in_turns(listed)
        for name, digests in listed.items():
            held = frozenset(digests)
            for digest, lister in everything.items():
                if digest not in held and digest not in self._unfounded:
                    self._miss(name, digest, topic, lister)
        await self._catch_up(listed)
        return list(everything)

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

    async def _answer(
        self, name: str, kind: _Call, call: Callable[[RestorableBlobStore], Coroutine[Any, Any, _T]]
    ) -> _T:
        """A store's answer to ``call``; one that does not answer rests.

        Raises:
            GalaxyError: whatever went wrong; StoreLate where it took too long.
        """
        begun_s = self._monotonic_s()
        try:
            async with asyncio.timeout(self._patience_s):
                answer = await call(self._stores[name])
        except TimeoutError as error:
            self._rest(name, kind, begun_s)
            raise StoreLate(f"no answer within {self._patience_s:g} s", where=name) from error
        except StoreUnreachable:
            self._rest(name, kind, begun_s)
            raise
        self._rest_s.pop((name, kind), None)
        return answer

    async def _read(self, name: str, digest: Digest, max_bytes: int) -> bytes:
        """A blob as one store gives it, verified whatever the store says."""
        found = await self._answer(name, "get", lambda store: store.get(digest, max_bytes=max_bytes))
        if len(found) > max_bytes:
            raise too_large(digest.hex(), max_bytes)
        return checked_blob(digest, found)

    async def _ask(
        self,
        names: Sequence[str],
        kind: _Call,
        call: Callable[[RestorableBlobStore], Coroutine[Any, Any, _T]],
        digest: Digest | None,
        enough: int,
        n_bytes: int = 0,
    ) -> dict[str, _T | GalaxyError]:
        """The answers of several stores, asked at once; failures are answers.

        Where ``enough`` have done it, the others are given up after a grace; ``n_bytes`` are sent to each.
        """
        answers: dict[str, _T | GalaxyError] = {}
        begun_s, loop = self._monotonic_s(), asyncio.get_running_loop()

        def fail(name: str, error: GalaxyError) -> None:
            answers[name] = error
            if not isinstance(error, BlobRefused | BlobMissing):
                self._report(BlobFault(name, _kind(error, None), digest, str(error), False))

        async def one(name: str) -> None:
            try:
                answers[name] = await self._answer(name, kind, call)
            except GalaxyError as error:
                fail(name, error)
            if grace.when() is None and _successes(answers) >= enough:
                grace.reschedule(loop.time() + GRACE_S + n_bytes / MIN_BYTES_PER_S)

        try:
            async with asyncio.timeout(None) as grace, asyncio.TaskGroup() as asked:
                for name in names:
                    asked.create_task(one(name))
        except TimeoutError:
            for name in names:
                if name not in answers:
                    self._rest(name, kind, begun_s)
                    fail(name, StoreLate("no answer long after others gave theirs", where=name))
        return {name: answers[name] for name in names}

    async def _put_right(self, name: str, failure: GalaxyError, digest: Digest, right: bytes) -> None:
        """Report what a store did wrong, and repair it where it is damage."""
        kind, is_repaired = _kind(failure, right), False
        if kind not in ("late", "unreachable", "refused"):
            with suppress(GalaxyError):
                await self._answer(name, "restore", partial(_restore, data=right))
                is_repaired = True
        self._report(BlobFault(name, kind, digest, str(failure), is_repaired))

    async def _catch_up(self, names: Iterable[str], *, most: int = CATCH_UP) -> None:
        """Bring stores some of what they missed."""
        for name in names:
            missed = self._missed[name]
            for (digest, topic), lister in list(islice(missed.items(), most)):
                if not await self._bring(name, digest, topic, lister):
                    break
                missed.pop((digest, topic), None)

    async def _bring(self, name: str, digest: Digest, topic: str, lister: str | None) -> bool:
        """Copy one blob to a store and list it there; False where the store does not take it now."""
        failures: dict[str, GalaxyError] = {}
        for other in self._awake():
            if other == name:
                continue
            try:
                data = await self._read(other, digest, self._max_blob_bytes)
            except GalaxyError as error:
                failures[other] = error
                continue
            try:
                await self._answer(name, "put", partial(_put, data=data, topic=topic))
            except BlobRefused:
                return True  # It never will.
            except GalaxyError:
                return False
            return True
        answered = [one for one in failures.values() if not isinstance(one, StoreUnreachable)]
        if lister is not None and len(answered) == len(self._stores) - 1:
            self._doubt(lister, digest, failures[lister])
        return True  # Nobody has it now. A list that still names it will bring it back here.

    def _doubt(self, lister: str, digest: Digest, failure: GalaxyError) -> None:
        """A store lists what it does not give, and nobody else does: name it, and copy that entry nowhere."""
        self._unfounded[digest] = None
        if len(self._unfounded) > MAX_MISSED:
            del self._unfounded[next(iter(self._unfounded))]
        now_s = self._monotonic_s()
        if now_s >= self._named_until_s[lister]:
            self._named_until_s[lister] = now_s + REST_S
            detail = f"listed, and given by no store: {failure}"
            self._report(BlobFault(lister, _kind(failure, None), digest, detail, False))

    def _miss(self, name: str, digest: Digest, topic: str, lister: str | None) -> None:
        if len(self._missed[name]) < MAX_MISSED:
            self._missed[name].setdefault((digest, topic), lister)

    def _awake(self) -> _Names:
        now_s = self._monotonic_s()
        return [name for name, until_s in self._rests_until_s.items() if until_s <= now_s]

    def _rest(self, name: str, kind: _Call, begun_s: float) -> None:
        """Leave a store alone that did not answer; its answers to calls of other kinds change nothing."""
        now_s, rest_s = self._monotonic_s(), self._rest_s.get((name, kind), REST_S)
        self._rest_s[name, kind] = min(2 * rest_s, MAX_REST_S)
        until_s = now_s + max(rest_s, REST_RATIO * (now_s - begun_s))
        self._rests_until_s[name] = max(self._rests_until_s[name], until_s)


async def _put(store: RestorableBlobStore, *, data: bytes, topic: str) -> Digest:
    return await store.put(data, topic=topic)


async def _restore(store: RestorableBlobStore, *, data: bytes) -> None:
    await store.restore(data)


async def _list(store: RestorableBlobStore, *, topic: str) -> Sequence[Digest]:
    return await store.list(topic)


def _in_turns(listed: Mapping[str, Sequence[Digest]]) -> dict[Digest, str]:
    """The first 100,000 digests where each store gives one in turn, and which store lists each (first)."""
    found: dict[Digest, str] = {}
    for row in zip_longest(*listed.values()):
        for name, digest in zip(listed, row, strict=True):
            if digest is not None and len(found) < MAX_LISTED:
                found.setdefault(digest, name)
    return found


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
    """The failure to raise: one that may pass before one that stays, which all stores must agree on."""
    ranks = (StoreUnreachable, BlobAltered, BlobMissing, BlobRefused, GalaxyError)
    return min(
        failures,
        key=lambda failure: next(rank for rank, kind in enumerate(ranks) if isinstance(failure, kind)),
    )
