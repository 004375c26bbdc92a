"""What can go wrong in a simulation, how often, and when it stops.

Every fault is drawn from one seeded source, which counts them and, where asked to, keeps a trace; the ports
of :mod:`galaxylearning.simulation.faulty_ports` suffer them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final, Self


class Fault(StrEnum):
    """The kinds of faults."""

    LOST_REQUEST = "lost request"
    """It never arrives; the caller learns that nothing answered."""
    LOST_REPLY = "lost reply"
    """It has its effect; the caller learns that nothing answered."""
    DUPLICATE = "duplicate"
    """It arrives twice, the second time later."""
    REORDERED = "reordered"
    """It arrives after what was sent later; by then the caller has given it up."""
    SLOW = "slow"
    """The answer takes long, on the way there or back."""
    STALE = "stale"
    """What is read is how things were some time ago."""
    MISSING = "missing"
    """A blob, or part of a list, is not where this reader looks yet."""
    TORN_WRITE = "torn write"
    """A blob is cut short for its readers, for a while; a journal's record is cut off by its node's death."""
    FULL_DISK = "full disk"
    """A record cannot be written, or the disk says so after it was."""
    CLOCK_JUMP = "clock jump"
    """A node's clock, or the chain's, is suddenly ahead."""
    CRASH = "crash"
    """A node dies at a call, before or after its effect, and starts again on its journal."""
    ABSENCE = "absence"
    """A node is gone for a long time, or for good."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely each fault is at each opportunity, and at which virtual second faults stop."""

    rates: Mapping[Fault, float]
    until_s: float


@dataclass(frozen=True, slots=True)
class Incident:
    """One fault that happened: when, to whom, doing what."""

    at_s: float
    node: str
    doing: str
    fault: Fault


class NodeDied(BaseException):
    """A node's process ends here: nothing of the node's may catch it."""


LEG_S: Final = (0.01, 0.4)
"""How long a message takes, one way."""
TIMEOUT_S: Final = 10.0
LATE_S: Final = (1.5 * TIMEOUT_S, 5 * TIMEOUT_S)
"""When a reordered request, or the second copy of a doubled one, arrives."""


def chance(name: str) -> Random:
    """A statistical generator that follows from a name: for faults, orders and delays, never for secrets."""
    return Random(name)  # noqa: S311 - it must be the same again


@dataclass
class FaultSource:
    """Draws faults. ``trace`` keeps each of them where ``keeps_trace``."""

    weather: Weather
    rng: Random
    keeps_trace: bool = False
    counts: Counter[Fault] = field(default_factory=Counter)
    trace: list[Incident] = field(default_factory=list)
    is_over: bool = False

    def now_s(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    @property
    def is_calm(self) -> bool:
        """Whether faults have stopped."""
        return self.is_over or self.now_s() >= self.weather.until_s

    def under(self, weather: Weather) -> Self:
        """The same source, counts and trace, for somebody with another weather."""
        found = copy(self)
        found.weather = weather
        return found

    def draw(self, node: str, doing: str, kinds: tuple[Fault, ...]) -> Fault | None:
        """Which of ``kinds`` happens to ``node`` now, at most one; it is counted."""
        mark = self.rng.random()
        if self.is_calm:
            return None
        for kind in kinds:
            mark -= self.weather.rates.get(kind, 0.0)
            if mark < 0:
                self.note(node, doing, kind)
                return kind
        return None

    def note(self, node: str, doing: str, fault: Fault) -> None:
        """Count a fault that was brought about elsewhere."""
        self.counts[fault] += 1
        if self.keeps_trace:
            self.trace.append(Incident(self.now_s(), node, doing, fault))

    def between(self, bounds: tuple[float, float]) -> float:
        """A duration within ``bounds``, in seconds."""
        return self.rng.uniform(*bounds)

    def coin(self) -> bool:
        """One of two ways a fault may go."""
        return self.rng.random() < 0.5
