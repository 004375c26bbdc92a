"""What happened in a run, round by round, in numbers: for callbacks, checkpoints, plots and reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import DataRefused
from galaxylearning.graph.document import nesting
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.units import round_name

I8: TypeAlias = NDArray[np.int8]

EndReason: TypeAlias = Literal["finished", "stopped early", "interrupted", "failed"]

FORMAT: Final = "galaxy-history-1"
MAX_NESTING: Final = 8
"""The parser recurses, and how deep it may do so is not ours to know: deeper documents are not parsed."""
LETTERS: Final = "-DMRA"
"""One letter per status, in their order, for the JSON form."""


class OwnerStatus(IntEnum):
    """How far a data owner's part in a round got."""

    ABSENT = 0
    """Sent nothing."""
    DROPPED = 1
    """Trained, but was too late or failed."""
    MALFORMED = 2
    """Sent what cannot be read."""
    REJECTED = 3
    """The gate turned it away."""
    ACCEPTED = 4


STATUS_NAMES: Final = tuple(status.name.lower() for status in OwnerStatus)


@dataclass(frozen=True, slots=True, eq=False)
class RoundRecord:
    """One round of a cohort of K.

    ``utility`` is minus the mean clipped loss on the hidden set after the round, per sample;
    ``accuracy`` in 0..1, None where the labels are no classes; ``seconds`` of real time. ``statuses`` int8[K]
    are codes of :class:`OwnerStatus`; ``values`` and ``errors`` f64[K] what each update was worth and its
    standard error, in units of the loss per sample, 0 unless accepted. ``loss`` is the mean loss in the data
    owners' first batches, where it is known.

    Raises:
        ValueError: a number is out of range or not finite, or the arrays do not belong together.
    """

    round_index: int
    utility: float
    accuracy: float | None
    seconds: float
    statuses: I8
    values: F64
    errors: F64
    loss: float | None = None

    def __post_init__(self) -> None:
        count = len(self.statuses)
        for name, values, kind in (
            ("statuses", self.statuses, np.int8),
            ("values", self.values, np.float64),
            ("errors", self.errors, np.float64),
        ):
            if values.dtype != kind or values.shape != (count,):
                raise ValueError(f"{name} must be {np.dtype(kind).name}[{count}]")
            if not bool(np.isfinite(values).all()):
                raise ValueError(f"{name} must be finite")
        if count and not 0 <= int(self.statuses.min()) <= int(self.statuses.max()) < len(OwnerStatus):
            raise ValueError(f"statuses must be in 0..{len(OwnerStatus) - 1}")
        for name, number in (("utility", self.utility), ("seconds", self.seconds), ("loss", self.loss)):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, not {number}")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy must be in [0, 1], not {self.accuracy}")
        if self.round_index < 0:
            raise ValueError(f"round_index must be at least 0, not {self.round_index}")

    @property
    def counts(self) -> Mapping[str, int]:
        """How many data owners had each status, by name, and how many sent something (``present``)."""
        found = np.bincount(self.statuses, minlength=len(OwnerStatus)).tolist()
        counts = dict(zip(STATUS_NAMES, found, strict=True))
        silent = counts["absent"] + counts["dropped"]
        return MappingProxyType({"present": len(self.statuses) - silent, **counts})

    def to_document(self, *, with_owners: bool = True) -> dict[str, Any]:
        """The record for JSON; ``with_owners`` adds what each one did, statuses as one letter each."""
        document: dict[str, Any] = {
            "round_index": self.round_index,
            "utility": self.utility,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "seconds": self.seconds,
            **self.counts,
        }
        if with_owners:
            document["statuses"] = "".join(LETTERS[code] for code in self.statuses.tolist())
            document["values"] = self.values.tolist()
            document["errors"] = self.errors.tolist()
        return document

    @classmethod
    def from_document(cls, document: Any) -> RoundRecord:
        """Read ``to_document`` back.

        Raises:
            DataRefused: another form, naming what is wrong.
        """
        try:
            return cls(
                round_index=int(document["round_index"]),
                utility=float(document["utility"]),
                accuracy=_maybe(document["accuracy"]),
                seconds=float(document["seconds"]),
                statuses=_statuses(document["statuses"]),
                values=np.array(document["values"], np.float64),
                errors=np.array(document["errors"], np.float64),
                loss=_maybe(document["loss"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataRefused(f"not a round's record: {_told(error)}", where="history") from error


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The rounds of a run so far, in order, all over the same ``owners`` identities.

    Raises:
        ValueError: a record of another cohort, or not in order.
    """

    owners: int
    rounds: tuple[RoundRecord, ...] = ()

    def __post_init__(self) -> None:
        before = -1
        for record in self.rounds:
            if len(record.statuses) != self.owners:
                raise ValueError(
                    f"{round_name(record.round_index)} has {len(record.statuses)} of {self.owners} owners"
                )
            if record.round_index <= before:
                raise ValueError(f"{round_name(record.round_index)} comes after {round_name(before)}")
            before = record.round_index

    def __len__(self) -> int:
        return len(self.rounds)

    def plus(self, record: RoundRecord) -> History:
        """With one more round."""
        return replace(self, rounds=(*self.rounds, record))

    def values(self) -> F64:
        """What every data owner's updates were worth together, f64[K] in units of the loss per sample."""
        return (
            np.sum([record.values for record in self.rounds], axis=0)
            if self.rounds
            else np.zeros(self.owners)
        )

    def errors(self) -> F64:
        """Standard errors of ``values``, f64[K]: rounds taken as independent."""
        if not self.rounds:
            return np.zeros(self.owners)
        total: F64 = np.sqrt(np.sum([record.errors**2 for record in self.rounds], axis=0))
        return total

    def tally(self) -> I64:
        """How many rounds every data owner had each status in, int64[K, 5] in the order of the codes."""
        counts = np.zeros((self.owners, len(OwnerStatus)), np.int64)
        for record in self.rounds:
            counts[np.arange(self.owners), record.statuses] += 1
        return counts

    def best(self) -> RoundRecord | None:
        """The round after which utility was highest; the first of equals."""
        return max(self.rounds, key=lambda record: record.utility, default=None)

    def to_json(self) -> str:
        """One JSON document; every number is read back exactly."""
        return json.dumps(
            {
                "format": FORMAT,
                "owners": self.owners,
                "rounds": [record.to_document() for record in self.rounds],
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> History:
        """Read ``to_json`` back.

        Raises:
            DataRefused: not such a document.
        """
        try:
            if nesting(text.encode()) > MAX_NESTING:
                raise ValueError("it is nested too deeply")
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise ValueError(f"format must be {FORMAT}")
            if not isinstance(document["rounds"], list):
                raise ValueError("rounds must be a list")
            rounds = tuple(RoundRecord.from_document(one) for one in document["rounds"])
            return cls(int(document["owners"]), rounds)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DataRefused(f"not a history: {_told(error)}", where="history") from error

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The same as a few arrays, for a checkpoint; what is None becomes NaN."""
        return {
            "owners": np.array(self.owners, np.int64),
            "round_index": np.array([record.round_index for record in self.rounds], np.int64),
            "numbers": np.array(
                [
                    [_number(x) for x in (record.utility, record.accuracy, record.seconds, record.loss)]
                    for record in self.rounds
                ],
                np.float64,
            ).reshape(len(self.rounds), 4),
            "statuses": self._stacked("statuses", np.int8),
            "values": self._stacked("values", np.float64),
            "errors": self._stacked("errors", np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> History:
        """Read ``to_arrays`` back.

        Raises:
            DataRefused: an array is missing or of another shape or type.
        """
        try:
            rounds = tuple(
                RoundRecord(
                    int(index),
                    float(numbers[0]),
                    None if math.isnan(numbers[1]) else float(numbers[1]),
                    float(numbers[2]),
                    statuses,
                    values,
                    errors,
                    None if math.isnan(numbers[3]) else float(numbers[3]),
                )
                for index, numbers, statuses, values, errors in zip(
                    *(arrays[key] for key in ("round_index", "numbers", "statuses", "values", "errors")),
                    strict=True,
                )
            )
            return cls(int(arrays["owners"]), rounds)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataRefused(f"not a history: {error}", where="history") from error

    def _stacked(self, name: str, kind: type[np.generic]) -> NDArray[Any]:
        rows = [getattr(record, name) for record in self.rounds]
        return np.array(rows, kind).reshape(len(rows), self.owners)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What callbacks are told before the first round.

    ``owners`` are the identities' names and ``behaviours`` what each is told to do; ``rounds`` how many are
    planned; ``value_unit`` is what a utility and a value are counted in, per sample; ``first_round`` is above
    0 where a run is resumed; ``settings`` is for whoever compares runs.
    """

    job: str
    owners: tuple[str, ...]
    behaviours: tuple[str, ...]
    rounds: int
    value_unit: str
    first_round: int = 0
    settings: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RunEnd:
    """What callbacks are told after the last round; ``pays`` are smallest units, one per identity."""

    reason: EndReason
    history: History
    pays: tuple[int, ...] = ()


def _statuses(letters: Any) -> I8:
    if not isinstance(letters, str) or not set(letters) <= set(LETTERS):
        raise ValueError(f"statuses must be letters of {LETTERS}")
    return np.array([LETTERS.index(letter) for letter in letters], np.int8)


def _maybe(number: Any) -> float | None:
    return None if number is None else float(number)


def _told(error: Exception) -> str:
    """What was wrong with a document: a missing field has no sentence of its own."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)[:200]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
