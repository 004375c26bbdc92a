"""Who is there in which round, and who is late: models of availability and traces of what really happened.

Everything follows from (seed, round, data owner): the answer for one does not depend on who else is asked
about, so that any number of workers agree. Knows no clock: a delay is a multiple of a normal duration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F64, I64, require_integer, require_number
from galaxylearning.simulation.availability_traces import Spells, read_failures, read_presence
from galaxylearning.simulation.partition_base import MAX_SEED, require_seed

MAX_PERIOD: Final = 1_000_000_000

_PRESENCE, _PHASE = 0x9E5, 0xFA5E


class Availability(Protocol):
    """Says of data owners, by their positions in the cohort, who takes part in a round and how late."""

    def present(self, round_index: int, owners: I64) -> NDArray[np.bool_]:
        """Who of ``owners`` (int64[K]) is there when the round begins: bool[K]."""
        ...

    def delay(self, round_index: int, owners: I64) -> F64:
        """How long each takes in normal durations, float64[K]: mostly 1, infinite where nothing arrives."""
        ...


@dataclass(frozen=True, slots=True)
class AlwaysAvailable:
    """Everybody, every round, in the normal time."""

    def present(self, round_index: int, owners: I64) -> NDArray[np.bool_]:  # noqa: ARG002
        """True for all; see ``Availability``."""
        return np.ones(len(owners), dtype=np.bool_)

    def delay(self, round_index: int, owners: I64) -> F64:  # noqa: ARG002
        """1 for all; see ``Availability``."""
        return _normal(owners)


@dataclass(frozen=True, slots=True)
class RandomAvailability:
    """Everybody independently with the same ``probability`` in every round, in the normal time."""

    probability: float
    seed: int = 42

    def __post_init__(self) -> None:
        require_number(self.probability, "probability", low=0, high=1, low_open=True)
        require_seed(self.seed)

    def present(self, round_index: int, owners: I64) -> NDArray[np.bool_]:
        """Who drew below ``probability``; see ``Availability``."""
        return _uniform(owners, self.seed, _PRESENCE, round_index) < self.probability

    def delay(self, round_index: int, owners: I64) -> F64:  # noqa: ARG002
        """1 for all; see ``Availability``."""
        return _normal(owners)


@dataclass(frozen=True, slots=True)
class DiurnalAvailability:
    """Everybody for a share ``duty`` of every ``period_rounds`` rounds, beginning at a phase of its own.

    Phones that charge at night, clinics that close: with phases spread evenly, about the share ``duty`` of
    all is there in any round.
    """

    period_rounds: int
    duty: float = 0.5
    seed: int = 42

    def __post_init__(self) -> None:
        require_integer(self.period_rounds, "period_rounds", low=1, high=MAX_PERIOD)
        require_number(self.duty, "duty", low=0, high=1, low_open=True)
        require_seed(self.seed)

    def present(self, round_index: int, owners: I64) -> NDArray[np.bool_]:
        """Who is within its share of the period; see ``Availability``."""
        phase = _uniform(owners, self.seed, _PHASE) * self.period_rounds
        return np.mod(round_index + phase, self.period_rounds) < self.duty * self.period_rounds

    def delay(self, round_index: int, owners: I64) -> F64:  # noqa: ARG002
        """1 for all; see ``Availability``."""
        return _normal(owners)


@dataclass(frozen=True, slots=True, eq=False)
class TraceAvailability:
    """Who was there according to a trace; data owners that it does not name never are.

    With ``period_rounds`` the trace is repeated: round ``r`` is looked up as ``r`` modulo that number.
    """

    spells: Spells
    period_rounds: int | None = None

    def __post_init__(self) -> None:
        if self.period_rounds is not None:
            require_integer(self.period_rounds, "period_rounds", low=1, high=MAX_PERIOD)

    @classmethod
    def read(cls, path: Path, *, period_rounds: int | None = None) -> TraceAvailability:
        """Read a CSV (``.csv``) or JSON Lines (``.jsonl``) file of ``round, owner`` or
        ``owner, start_round, end_round`` (both inclusive).

        Raises:
            DataRefused: no such file, another format, or a line that cannot be used, by its number.
            StorageError: the disk failed.
        """
        return cls(read_presence(path), period_rounds)

    def present(self, round_index: int, owners: I64) -> NDArray[np.bool_]:
        """Who has a spell that covers the round; see ``Availability``."""
        looked_up = round_index if self.period_rounds is None else round_index % self.period_rounds
        return self.spells.find(looked_up, owners) >= 0

    def delay(self, round_index: int, owners: I64) -> F64:  # noqa: ARG002
        """1 for all; see ``Availability``."""
        return _normal(owners)


@dataclass(frozen=True, slots=True, eq=False)
class FailureTrace:
    """What went wrong: who trained and was not heard of, who was slow, who crashed and when it came back.

    In a spell of ``drops`` a data owner is there and trains, but its update never arrives. In one of ``slow``
    it takes ``factors`` times as long. In one of ``crashes`` it falls over in the first round, whose update
    is lost, and is away until the spell has ended. Nobody else has any trouble.
    """

    drops: Spells = field(default_factory=Spells.none)
    slow: Spells = field(default_factory=Spells.none)
    crashes: Spells = field(default_factory=Spells.none)

    @classmethod
    def read(cls, path: Path) -> FailureTrace:
        """Read a CSV or JSON Lines file of ``owner, start_round, end_round, failure, factor``.

        ``failure`` is ``drop``, ``slow`` or ``crash``; both rounds are inclusive, and an empty ``end_round``
        means for good; ``factor`` (from 1) belongs to ``slow`` alone.

        Raises:
            DataRefused: no such file, another format, or a line that cannot be used, by its number.
            StorageError: the disk failed.
        """
        drops, slow, crashes = read_failures(path)
        return cls(drops, slow, crashes)

    def present(self, round_index: int, owners: I64) -> NDArray[np.bool_]:
        """All but those that crashed in an earlier round and are not back; see ``Availability``."""
        found = self.crashes.find(round_index, owners)
        away = found >= 0
        away[away] = self.crashes.starts[found[away]] < round_index
        return ~away

    def delay(self, round_index: int, owners: I64) -> F64:
        """Factors of the slow, infinite for the dropped and the crashed; see ``Availability``."""
        delay = _normal(owners)
        found = self.slow.find(round_index, owners)
        delay[found >= 0] = self.slow.factors[found[found >= 0]]
        lost = (self.drops.find(round_index, owners) >= 0) | (self.crashes.find(round_index, owners) >= 0)
        delay[lost] = np.inf
        return delay


@dataclass(frozen=True, slots=True)
class CombinedAvailability:
    """There where all ``parts`` say so; delays are multiplied. For failures on top of availability."""

    parts: Sequence[Availability]

    def present(self, round_index: int, owners: I64) -> NDArray[np.bool_]:
        """Who is there according to every part; see ``Availability``."""
        there = np.ones(len(owners), dtype=np.bool_)
        for part in self.parts:
            there &= part.present(round_index, owners)
        return there

    def delay(self, round_index: int, owners: I64) -> F64:
        """The product of the parts' delays; see ``Availability``."""
        delay = _normal(owners)
        for part in self.parts:
            delay *= part.delay(round_index, owners)
        return delay


def parse_availability(text: str) -> Availability:
    """The availability that ``text`` names, as on a command line.

    ``always``, ``random:0.8``, ``random:0.8,seed=7``, ``diurnal:24,duty=0.3``, ``trace:PATH``,
    ``trace:PATH,period_rounds=24``, ``failures:PATH``.

    Raises:
        ConfigRefused: an unknown name or argument, or one that is missing or out of range.
        DataRefused, StorageError: a trace that cannot be read.
    """
    name, _, rest = text.strip().partition(":")
    name = name.strip().lower()
    form = _FORMS.get(name)
    if form is None:
        raise ConfigRefused(f"{name!r:.60} given; allowed: {', '.join(_FORMS)}", where="availability")
    allowed = (*form.required, *form.optional)
    values: dict[str, Any] = {}
    for position, part in enumerate(rest.split(",") if rest.strip() else []):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if position == 0 and form.required and (not equals or key not in allowed):
            key, value = form.required[0], part.strip()
        elif not equals or key not in allowed:
            raise ConfigRefused(
                f"{part.strip()!r:.60} given; allowed: {', '.join(allowed) or 'no arguments'}",
                where=f"availability {name!r}",
            )
        if key in values:
            raise ConfigRefused(f"{key} is given twice", where=f"availability {name!r}")
        values[key] = _READERS[key](value, key)
    for key in form.required:
        if key not in values:
            raise ConfigRefused(f"{key} is missing", where=f"availability {name!r}")
    return form.make(**values)


@dataclass(frozen=True, slots=True)
class _Form:
    """How text names an availability; the first required argument may go without its name."""

    make: Callable[..., Availability]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_FORMS: Final[Mapping[str, _Form]] = {
    "always": _Form(AlwaysAvailable),
    "random": _Form(RandomAvailability, ("probability",), ("seed",)),
    "diurnal": _Form(DiurnalAvailability, ("period_rounds",), ("duty", "seed")),
    "trace": _Form(TraceAvailability.read, ("path",), ("period_rounds",)),
    "failures": _Form(FailureTrace.read, ("path",)),
}


def _whole(value: str, key: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(MAX_SEED))):
        raise ConfigRefused(f"{value!r:.60} given; allowed: a whole number from 0", where=key)
    return int(value)


def _share(value: str, key: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigRefused(f"{value!r:.60} given; allowed: a number from 0 to 1", where=key) from error


def _path(value: str, key: str) -> Path:
    if not value or "\0" in value:
        raise ConfigRefused("must name a file", where=key)
    return Path(value)


_READERS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "seed": _whole,
    "period_rounds": _whole,
    "probability": _share,
    "duty": _share,
    "path": _path,
}


def _normal(owners: I64) -> F64:
    return np.ones(len(owners), dtype=np.float64)


def _uniform(owners: I64, *key: int) -> F64:
    """One number in [0, 1) for each owner from its position and ``key`` alone, float64[K].

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", finaliser mix64.
    """
    state = np.uint64(0)
    for part in key:
        state = _mix(np.array([part], dtype=np.uint64) ^ state)[0]
    # 53 bits, as many as a float64 keeps.
    return (_mix(owners.astype(np.uint64) ^ state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
