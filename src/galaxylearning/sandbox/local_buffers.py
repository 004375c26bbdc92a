"""Buffers that stay with their data owner, on their way from one round of a job to the next.

They are on disk before the update is: a node that is started again trains on from where it was. Those of each
round have a name of their own, so that a round which is trained again begins where it began before.
"""

from __future__ import annotations

from typing import Final

from galaxylearning.errors import StorageError
from galaxylearning.messages.terms import Terms
from galaxylearning.ports import Checkpoints
from galaxylearning.protocol.updates import local_name
from galaxylearning.units import Address

KEPT: Final = 32
"""So many are remembered where nothing is kept on disk: two of a job."""


class LocalBuffers:
    """Where a trainer keeps them: among the checkpoints, or in memory where there are none."""

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self._checkpoints = checkpoints
        self._kept: dict[str, bytes] = {}

    def before(self, terms: Terms, round_index: int, data_owner: Address, *, size: int) -> bytes | None:
        """The ``size`` bytes that the last training before this round left, or None."""
        last = self._last_before(terms, round_index, data_owner, size)
        return None if last is None else last[1]

    def keep(self, terms: Terms, round_index: int, data_owner: Address, data: bytes) -> None:
        """Keep what a round's training left, and what it began with; earlier ones go.

        Raises:
            StorageError: it is not on disk; the round is trained again then.
        """
        name = local_name(terms, round_index, data_owner)
        last = self._last_before(terms, round_index, data_owner, len(data))
        for earlier in range(0 if last is None else last[0]):
            self._discard(local_name(terms, earlier, data_owner))
        if self._checkpoints is None:
            self._kept.pop(name, None)
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[name] = data
            return
        kept = self._checkpoints.of(name)
        kept.save(data)
        if kept.load() != data:
            raise StorageError("buffers that stay with their data owner could not be kept", where=name)

    def _last_before(
        self, terms: Terms, round_index: int, data_owner: Address, size: int
    ) -> tuple[int, bytes] | None:
        for earlier in range(round_index - 1, -1, -1):
            name = local_name(terms, earlier, data_owner)
            found = self._kept.get(name) if self._checkpoints is None else self._checkpoints.of(name).load()
            if found is not None and len(found) == size:
                return earlier, found
        return None

    def _discard(self, name: str) -> None:
        if self._checkpoints is None:
            self._kept.pop(name, None)
        else:
            self._checkpoints.discard(name)
