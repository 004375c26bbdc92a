"""Jobs that were given up for a while: for how long, and which."""

from __future__ import annotations

import pytest

from galaxylearning.errors import (
    ConfigRefused,
    DataRefused,
    GalaxyError,
    GraphRefused,
    JobRefused,
    UpdateRefused,
    WorkerRefused,
)
from galaxylearning.nodes.set_aside import SetAside


class HandClock:
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_pauses_double_up_to_an_hour_until_the_job_goes_on() -> None:
    aside = SetAside(HandClock())
    assert [aside.put(1, took_s=0.0) for _ in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert aside.put(2, took_s=0.0) == 60
    aside.forget(1)
    assert aside.put(1, took_s=0.0) == 60


def test_what_took_long_waits_longer() -> None:
    aside = SetAside(HandClock())
    assert [aside.put(1, took_s=3600.0), aside.put(1, took_s=1.0)] == [4 * 3600, 120]


def test_a_job_waits_until_its_pause_is_over_and_comes_back_once() -> None:
    clock = HandClock()
    aside = SetAside(clock)
    assert (aside.is_waiting(1), aside.is_back(1)) == (False, False)
    aside.put(1, took_s=0.0)
    clock.now_s = 59.9
    assert (aside.is_waiting(1), aside.is_back(1), aside.is_waiting(2)) == (True, False, False)
    clock.now_s = 60.0
    assert [aside.is_back(1), aside.is_back(1), aside.is_waiting(1)] == [True, False, False]


@pytest.mark.parametrize(
    ("error", "is_allowed"),
    [
        (WorkerRefused("took too long", cap="maximum_training_s"), True),
        (DataRefused("no data set has this name any more"), True),
        (ConfigRefused("'required'", where="policy.sandbox"), True),
        (GraphRefused("an operation"), False),
        (JobRefused("pays in another token"), False),
        (UpdateRefused("diverged"), False),
    ],
)
def test_what_a_stranger_wrote_is_given_up_for_good(error: GalaxyError, is_allowed: bool) -> None:
    assert SetAside.allows(error) == is_allowed
