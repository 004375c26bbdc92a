"""What happens in one run: everything follows from its seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from benchmarks.faults.oracle import WINDOW_S

from galaxylearning.simulation.faults import Fault, Weather, chance

EVALUATORS: Final = ("evaluator-1", "evaluator-2", "evaluator-3")
OWNERS: Final = ("east", "north", "south", "west")
QUORUM: Final = 2
NEVER: Final = float("inf")

RATES: Final[Mapping[Fault, float]] = {
    Fault.LOST_REQUEST: 1.0,
    Fault.LOST_REPLY: 1.0,
    Fault.DUPLICATE: 1.0,
    Fault.REORDERED: 0.6,
    Fault.SLOW: 1.0,
    Fault.STALE: 1.5,
    Fault.MISSING: 1.0,
    Fault.TORN_WRITE: 0.7,
    Fault.FULL_DISK: 2.0,
    Fault.CLOCK_JUMP: 1.0,
    Fault.CRASH: 0.15,
}
"""How often each kind happens at its opportunities, in multiples of the run's roughness."""

CALM, ROUGH, STORM = (0.005, 0.02), (0.02, 0.05), (0.08, 0.30)
"""Roughness of a run."""


@dataclass(frozen=True, slots=True)
class Absence:
    """A node that is gone from a virtual second on, for some time or for good."""

    node: str
    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class ChainJump:
    """The chain's clock is suddenly ahead."""

    at_s: float
    by_s: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. ``must_settle``: its faults are such that the job has to be settled, not only ended."""

    seed: int
    privacy: str
    rounds: int
    owners: tuple[str, ...]
    direct: frozenset[str]
    weather: Weather
    absences: tuple[Absence, ...]
    chain_jumps: tuple[ChainJump, ...]
    must_settle: bool

    @property
    def bound_s(self) -> float:
        """When the job must have ended, whatever happened: all of its windows, and some time to act."""
        windows = 2 + 2 * self.rounds + 1 + 2
        return windows * WINDOW_S + 2 * WINDOW_S


def scenario(seed: int) -> Scenario:
    """The run of a seed."""
    rng = chance(f"scenario {seed}")
    privacy = "masked" if rng.random() < 0.2 else "sealed"
    rounds = 1 if rng.random() < 0.5 else 2
    owners = OWNERS if privacy == "masked" else OWNERS[: rng.choice((3, 4))]
    direct = frozenset({rng.choice(owners)} if rng.random() < 0.1 else ())
    bounds = rng.choices((CALM, ROUGH, STORM), (0.35, 0.4, 0.25))[0]
    # Opening a masked round takes many more steps within the same window.
    is_bearable = bounds is CALM or (bounds is ROUGH and privacy == "sealed")
    roughness = rng.uniform(*bounds)
    rates = {kind: roughness * weight * rng.uniform(0.5, 1.5) for kind, weight in RATES.items()}
    bound_s = Scenario(seed, privacy, rounds, owners, direct, Weather({}, 0), (), (), False).bound_s
    until_s = rng.uniform(0.5 * WINDOW_S, bound_s) if rng.random() < 0.7 else NEVER
    absences, is_doomed = _absences(rng, owners, bound_s)
    jumps = tuple(
        ChainJump(rng.uniform(0, bound_s), rng.randint(1, WINDOW_S // 10))
        for _ in range(rng.choice((0, 0, 1, 2)))
    )
    return Scenario(
        seed,
        privacy,
        rounds,
        owners,
        direct,
        Weather(rates, until_s),
        absences,
        jumps,
        must_settle=is_bearable and not is_doomed and not _is_beginning_missed(absences),
    )


def _is_beginning_missed(absences: tuple[Absence, ...]) -> bool:
    """Whether somebody is gone for too much of the enrolment whom the job cannot begin without.

    Those are the only relayer, by whom data sets are registered, and every evaluator, who takes a seat.
    """
    return any(
        one.node in ("relayer", *EVALUATORS) and one.at_s < WINDOW_S and one.at_s + one.for_s > 1.5 * WINDOW_S
        for one in absences
    )


def milder(weather: Weather) -> Weather:
    """For the one who posts the job, which is a chain of calls that begins again when one of them fails."""
    return Weather(
        {kind: min(rate, CALM[1] * RATES[kind]) for kind, rate in weather.rates.items()}, weather.until_s
    )


def _absences(rng: Random, owners: tuple[str, ...], bound_s: float) -> tuple[tuple[Absence, ...], bool]:
    """Who is gone when; and whether the job may fail for it."""
    found = []
    if rng.random() < 0.25:
        for_s = rng.choice((rng.uniform(60, 2 * WINDOW_S), NEVER))
        found.append(Absence(rng.choice(EVALUATORS), rng.uniform(0, bound_s / 2), for_s))
    if rng.random() < 0.2:
        for_s = rng.choice((rng.uniform(60, 2 * WINDOW_S), NEVER))
        found.append(Absence(rng.choice(owners), rng.uniform(0, bound_s / 2), for_s))
    if rng.random() < 0.2:
        found.append(Absence("relayer", rng.uniform(0, bound_s / 2), rng.uniform(60, 2 * WINDOW_S)))
    is_doomed = rng.random() < 0.05
    if is_doomed:
        gone = rng.sample(EVALUATORS, QUORUM)
        at_s = rng.uniform(0, bound_s / 2)
        found += [Absence(who, at_s + rng.uniform(0, 60), NEVER) for who in gone]
    return tuple(found), is_doomed
