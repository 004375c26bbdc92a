"""Jobs that were given up for something that may be otherwise later, here: a cap, a data set, the policy.

They are taken again after pauses that grow, so that what fails each time takes ever less of the node's time.
"""

from __future__ import annotations

from typing import Final

from galaxylearning.errors import ConfigRefused, DataRefused, GalaxyError, WorkerRefused
from galaxylearning.ports import Clock

FIRST_PAUSE_S: Final = 60.0
LONGEST_PAUSE_S: Final = 3600.0
"""Each pause is twice as long as the one before, up to this."""

PAUSE_SHARE: Final = 4.0
"""A pause is at least so many times as long as what failed: a training that runs into its cap takes long."""


class SetAside:
    """Which jobs wait to be taken again, and since when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses_s: dict[int, float] = {}
        self._until_s: dict[int, float] = {}

    @staticmethod
    def allows(error: GalaxyError) -> bool:
        """Whether a job that failed like this may do better later; what a stranger wrote stays as it is."""
        return isinstance(error, WorkerRefused | DataRefused | ConfigRefused)

    def put(self, job_id: int, *, took_s: float) -> float:
        """Set a job aside after ``took_s`` seconds of vain work; for how many seconds."""
        doubled = min(2 * self._pauses_s.get(job_id, FIRST_PAUSE_S / 2), LONGEST_PAUSE_S)
        self._pauses_s[job_id] = doubled
        pause_s = max(doubled, PAUSE_SHARE * took_s)
        self._until_s[job_id] = self._clock.monotonic_s() + pause_s
        return pause_s

    def is_waiting(self, job_id: int) -> bool:
        """Whether a job's pause is not over yet."""
        return self._clock.monotonic_s() < self._until_s.get(job_id, 0.0)

    def is_back(self, job_id: int) -> bool:
        """Whether a job's pause is over; true once for each."""
        return not self.is_waiting(job_id) and self._until_s.pop(job_id, None) is not None

    def forget(self, job_id: int) -> None:
        """The job went on, or is over."""
        self._pauses_s.pop(job_id, None)
        self._until_s.pop(job_id, None)
