"""Who plays what: behaviours given to the data owners of a cohort, and what they make up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.engines.cohort import Cohort
from galaxylearning.errors import ConfigRefused, DataRefused, Refused
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.simulation.behaviours_base import Behaviour, Bool, Plain
from galaxylearning.simulation.behaviours_free import Honest
from galaxylearning.simulation.behaviours_registry import describe, parse_behaviour

MAX_ASSIGNMENTS: Final = 1000
_WHERE: Final = re.compile(
    r"(?P<what>[^@]*?)\s*(?:@\s*(?P<places>[^@]*)|(?<=[^\s])\s*x(?P<count>[0-9]{1,9}))?"
)
_DATA, _ABSENCE = 0xDA7A, 0xAB5E


@dataclass(frozen=True, slots=True, eq=False)
class Cast:
    """A cohort with its Sybil identities, and who plays what.

    Identity ``i`` behaves as ``behaviours[plays[i]]``, plays int64[K]; ``played_by`` int64[K] is the position
    of the data owner behind it in the cohort before Sybils. ``behaviours[0]`` is honest.
    """

    cohort: Cohort
    behaviours: tuple[Behaviour, ...]
    plays: I64
    played_by: I64
    seed: int

    def __len__(self) -> int:
        return len(self.plays)

    @property
    def labels(self) -> tuple[str, ...]:
        """What each identity does, as the text that asks for it."""
        texts = [describe(behaviour) for behaviour in self.behaviours]
        return tuple(texts[play] for play in self.plays.tolist())

    @property
    def trains(self) -> Bool:
        """Whose training is needed, bool[K]."""
        flags: Bool = np.array([behaviour.trains for behaviour in self.behaviours])[self.plays]
        return flags

    @property
    def delays(self) -> F64:
        """How long a round takes each identity, in multiples of the normal duration, f64[K]."""
        factors: F64 = np.array([float(behaviour.delay) for behaviour in self.behaviours])[self.plays]
        return factors

    def absent(self, round_index: int, owners: I64) -> Bool:
        """Which of ``owners`` int64[m] stay away from this round by their own choice, bool[m]."""
        away = np.zeros(len(owners), np.bool_)
        for number, behaviour in enumerate(self.behaviours):
            mine = np.flatnonzero(self.plays[owners] == number)
            if mine.size:
                rng = np.random.default_rng([self.seed, _ABSENCE, round_index, number])
                everybody = np.flatnonzero(self.plays == number)
                stays_away = behaviour.absent(round_index, everybody, rng=rng)
                away[mine] = stays_away[np.searchsorted(everybody, owners[mine])]
        return away


def parse_assignments(texts: Sequence[str], *, owners: int, rng: np.random.Generator) -> dict[int, Behaviour]:
    """Who behaves how, by position, from texts ``BEHAVIOUR[@POSITIONS | @SHARE% | @xCOUNT]``.

    ``alie@0-19,25`` gives it to those positions; ``zero@10%`` and ``zero@x3`` (or ``zero x3``) to so many of
    those that no text names by position, drawn by ``rng``; without any, to one. The rest is honest.

    Raises:
        ConfigRefused: a text that means nothing, a position that is taken or does not exist, or too few left.
    """
    if len(texts) > MAX_ASSIGNMENTS:
        raise ConfigRefused(f"{len(texts)} given; at most {MAX_ASSIGNMENTS} are allowed", where="behaviours")
    found: dict[int, Behaviour] = {}
    drawn: list[tuple[str, Behaviour, int]] = []
    for text in texts:
        behaviour, positions, count = _parse_assignment(text, owners)
        if positions is None:
            drawn.append((text, behaviour, count))
        for position in positions or ():
            if position in found:
                raise ConfigRefused(
                    f"data owner {position} is {describe(found[position])} already; join them with '+'",
                    where=text[:60],
                )
            found[position] = behaviour
    for text, behaviour, count in drawn:
        left = np.array([position for position in range(owners) if position not in found], np.int64)
        if count > len(left):
            raise ConfigRefused(f"{count} wanted, {len(left)} of {owners} are left", where=text[:60])
        for position in rng.choice(left, count, replace=False).tolist():
            found[position] = behaviour
    return found


def enlist(cohort: Cohort, assignments: Mapping[int, Behaviour], *, seed: int) -> Cast:
    """Give data owners their behaviours: rows they change join the pool, Sybil identities join the cohort.

    Who is not named is honest. The first identity of a Sybil keeps its position; the others come after all
    data owners, numbered upwards from the largest number given. What one data owner does to its rows depends
    on ``seed`` and its position alone.

    Raises:
        ConfigRefused: a position that does not exist, or a behaviour that these data do not allow.
        DataRefused: too few rows for the Sybil identities, or rows of another shape or type came out.
    """
    book = _Book(cohort)
    for position in sorted(assignments):
        if not 0 <= position < len(cohort):
            raise ConfigRefused(
                f"{position} given; data owners are 0 to {len(cohort) - 1}", where="behaviours"
            )
        behaviour = assignments[position]
        if _keeps_rows(behaviour):
            book.enrol(position, behaviour)
            continue
        rng = np.random.default_rng([seed, _DATA, position])
        try:
            book.enter(position, behaviour, rng)
        except Refused as refused:
            raise type(refused)(str(refused), where=f"data owner {position}") from refused
    return book.close(seed)


@dataclass(slots=True)
class _Book:
    """Entries of a cast while it is written."""

    cohort: Cohort
    classes: int = 0
    pieces: list[I64] = field(default_factory=list)
    counts: list[I64] = field(default_factory=list)
    extra: list[tuple[I64, int, int]] = field(default_factory=list)
    changed: list[Rows] = field(default_factory=list)
    behaviours: dict[Behaviour, int] = field(default_factory=lambda: {Honest(): 0})
    plays: dict[int, int] = field(default_factory=dict)
    done: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        labels: NDArray[Any] = self.cohort.pool.labels
        self.classes = int(labels.max()) + 1 if labels.dtype.kind in "iu" and labels.size else 0
        self.size = len(self.cohort.pool)

    def enter(self, position: int, behaviour: Behaviour, rng: np.random.Generator) -> None:
        """One data owner and its behaviour; positions come in ascending order."""
        number = self.enrol(position, behaviour)
        index = self._rows(position, behaviour, rng)
        parts = behaviour.split(len(index), rng=rng)
        self._copy_until(position)
        self._append(index[parts[0]])
        self.done = position + 1
        self.extra.extend((index[part], number, position) for part in parts[1:])

    def enrol(self, position: int, behaviour: Behaviour) -> int:
        """Note who plays what; gives the behaviour's number."""
        return self.plays.setdefault(position, self.behaviours.setdefault(behaviour, len(self.behaviours)))

    def _rows(self, position: int, behaviour: Behaviour, rng: np.random.Generator) -> I64:
        """Where in the pool its rows are, once it has changed them."""
        cohort = self.cohort
        before = cohort.rows(position)
        after = behaviour.data(before, classes=self.classes, rng=rng)
        if after is before:
            return cohort.index[cohort.offsets[position] : cohort.offsets[position + 1]]
        for name in ("inputs", "labels"):
            old, new = getattr(before, name), getattr(after, name)
            if new.dtype != old.dtype or new.shape[1:] != old.shape[1:] or len(new) != len(after):
                raise DataRefused(f"changed the type or shape of the {name}", where=behaviour.name)
        self.changed.append(after)
        self.size += len(after)
        return np.arange(self.size - len(after), self.size, dtype=np.int64)

    def _copy_until(self, position: int) -> None:
        offsets = self.cohort.offsets[self.done : position + 1]
        self.pieces.append(self.cohort.index[offsets[0] : offsets[-1]])
        self.counts.append(np.diff(offsets))

    def _append(self, index: I64) -> None:
        self.pieces.append(index)
        self.counts.append(np.array([len(index)], np.int64))

    def close(self, seed: int) -> Cast:
        """The cast."""
        cohort, owners = self.cohort, len(self.cohort)
        self._copy_until(owners)
        for index, _, _ in self.extra:
            self._append(index)
        pool = cohort.pool
        if self.changed:
            pool = Rows(
                np.concatenate([pool.inputs, *(rows.inputs for rows in self.changed)]),
                np.concatenate([pool.labels, *(rows.labels for rows in self.changed)]),
            )
        identities = cohort.identities
        if self.extra:
            first = max(identities) + 1
            identities = (*identities, *range(first, first + len(self.extra)))
        plays = np.zeros(owners, np.int64)
        plays[list(self.plays)] = list(self.plays.values())
        return Cast(
            Cohort(
                pool,
                np.concatenate(self.pieces),
                np.concatenate([[0], np.cumsum(np.concatenate(self.counts))]).astype(np.int64),
                identities,
            ),
            tuple(self.behaviours),
            np.concatenate([plays, np.array([number for _, number, _ in self.extra], np.int64)]),
            np.concatenate([np.arange(owners), np.array([who for _, _, who in self.extra], np.int64)]),
            seed,
        )


def _keeps_rows(behaviour: Behaviour) -> bool:
    """Whether it surely leaves rows and identities alone; thousands of such need not be asked one by one."""
    kind = type(behaviour)
    return isinstance(behaviour, Plain) and kind.data is Plain.data and kind.split is Plain.split


def _parse_assignment(text: str, owners: int) -> tuple[Behaviour, tuple[int, ...] | None, int]:
    """Behaviour, positions or None, and how many to draw."""
    match = _WHERE.fullmatch(text.strip())
    if match is None:
        raise ConfigRefused(
            "must be NAME[:argument=value,...][@positions | @share% | @xCOUNT], as in alie@0-19,25",
            where=text[:60],
        )
    behaviour = parse_behaviour(match["what"])
    places = match["places"]
    if places is None:
        return behaviour, None, int(match["count"] or 1)
    places = places.strip()
    if share := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%", places):
        if float(share[1]) > 100:
            raise ConfigRefused("a share can be at most 100%", where=text[:60])
        return behaviour, None, round(owners * float(share[1]) / 100)
    if count := re.fullmatch(r"x\s*([0-9]{1,9})", places):
        return behaviour, None, int(count[1])
    positions: list[int] = []
    for word in places.split(","):
        span = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", word)
        if span is None:
            raise ConfigRefused(f"{word[:30]!r} means nothing; 5, 0-19, 10% or x3 do", where=text[:60])
        first, last = int(span[1]), int(span[2] or span[1])
        if first > last or last >= owners or len(positions) > owners:
            raise ConfigRefused(f"{word.strip()}; positions are 0 to {owners - 1}", where=text[:60])
        positions.extend(range(first, last + 1))
    return behaviour, tuple(positions), 0
