"""Signed signs of life: slow is not dead, and whoever is missing is named with what is known of it.

A presence is a hint. It never decides what counts; it decides how long others wait, within the chain's
windows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio

from galaxylearning.errors import GalaxyError, MessageRefused, StorageError
from galaxylearning.messages import typed
from galaxylearning.messages.records import ACTIVITIES, SignedPresence, verify
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.site import Site
from galaxylearning.units import Address

SIGNS_A_ROUND: Final = 40
SHORTEST_INTERVAL_S: Final = 15
MISSED_SIGNS: Final = 3
"""Whoever has given no sign for so many intervals counts as silent."""

LOOKS_A_SIGN: Final = 5
"""So many times an interval signs are looked for where nothing is known to depend on them."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Missing:
    """Somebody who is waited for: what it was doing when it last gave a sign, or that it is silent."""

    account: Address
    activity: str | None
    silent_s: int | None

    @property
    def reason(self) -> str:
        """For people."""
        if self.activity is None:
            return "gave no sign"
        return f"{self.activity} {self.silent_s} s ago"


class PresenceBoard:
    """The signs of life in one job: our own, at most one an interval, and everybody's latest."""

    def __init__(self, site: Site, board: Board, terms: Terms, job_id: int) -> None:
        self._site, self._board, self._job_id = site, board, job_id
        self.interval_s = max(SHORTEST_INTERVAL_S, terms.windows.round_s // SIGNS_A_ROUND)
        self._told: dict[tuple[int, str], float] = {}
        self._verified: dict[bytes, bool] = {}

    async def tell(self, round_index: int, activity: str) -> None:
        """Say what we are doing, unless that was said within the interval; a failing store is no matter."""
        now, key = self._site.clock.monotonic_s(), (round_index, activity)
        last = self._told.get(key)
        if last is not None and now - last < self.interval_s:
            return
        self._told[key] = now
        try:
            message = typed.Presence(
                job_id=self._job_id,
                round_index=round_index,
                account=self._site.address,
                activity=ACTIVITIES.index(activity),
                seen_at=await self._site.ledger.now(),
            )
            signature = self._site.signer.sign_digest(message.digest(self._site.domain()))
            record = SignedPresence.from_message(message, signature=signature)
            await self._board.post(_topic(round_index), record)
        except GalaxyError as error:
            if not error.retryable:
                raise

    async def while_telling(self, round_index: int, activity: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Give signs of life for as long as ``work`` takes; raises what it raises."""
        await self.tell(round_index, activity)
        result: list[_T] = []
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_telling, round_index, activity)
                result.append(await work())
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failures:
            if len(failures.exceptions) == 1:
                raise failures.exceptions[0] from None
            raise
        return result[0]

    async def _keep_telling(self, round_index: int, activity: str) -> None:
        while True:
            await self._site.clock.sleep(self.interval_s)
            await self.tell(round_index, activity)

    async def latest(self, round_index: int) -> Mapping[Address, SignedPresence]:
        """Everybody's latest sign in a round; what is not signed by its account is left out."""
        found: dict[Address, SignedPresence] = {}
        for digest, record in (await self._board.read(_topic(round_index), SignedPresence)).items():
            if digest not in self._verified:
                self._verified[digest] = record.job_id == self._job_id and self._is_signed(record)
            if self._verified[digest] and record.round_index == round_index:
                known = found.get(record.signer)
                if known is None or record.seen_at > known.seen_at:
                    found[record.signer] = record
        return found

    def _is_signed(self, record: SignedPresence) -> bool:
        try:
            verify(record, self._site.domain())
        except MessageRefused:
            return False
        return True

    async def missing(
        self, round_index: int, wanted: Collection[Address], present: Collection[Address], *, now: int
    ) -> tuple[Missing, ...]:
        """Who of ``wanted`` is not ``present`` at chain time ``now``, with what is known of each.

        A sign from later than now counts as one from now.
        """
        absent = [who for who in wanted if who not in present]
        if not absent:
            return ()
        try:
            signs = await self.latest(round_index)
        except StorageError:
            signs = {}
        return tuple(
            Missing(who, None, None)
            if (sign := signs.get(who)) is None
            else Missing(who, ACTIVITIES[sign.activity], max(0, now - sign.seen_at))
            for who in absent
        )

    def is_alive(self, missing: Missing) -> bool:
        """Whether it gave a sign lately."""
        return missing.silent_s is not None and missing.silent_s <= MISSED_SIGNS * self.interval_s


def _topic(round_index: int) -> str:
    return f"round/{round_index}/presence"
