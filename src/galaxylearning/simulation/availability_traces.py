"""Traces of availability and failure, read from CSV or JSON Lines, as spells that are found by search.

Rounds and positions of data owners count from 0, and a spell includes both its rounds.
"""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import msgspec
import numpy as np

from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.storage import files
from galaxylearning.units import how_many

MAX_BYTES: Final = 1 << 27
MAX_LINES: Final = 5_000_000
MAX_LINE_CHARS: Final = 1_000
MAX_NUMBER: Final = 2**31 - 1
"""The last round and the last data owner that a trace may name; as the end of a spell, for good."""
MAX_FACTOR: Final = 1e9
FAILURES: Final = ("drop", "slow", "crash")

_SINGLE: Final = frozenset({"round", "owner"})
_SPELL: Final = frozenset({"owner", "start_round", "end_round"})
_FAILURE: Final = frozenset({"owner", "start_round", "end_round", "failure", "factor"})
_NUMBER_BITS: Final = 31

_Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class Spells:
    """Who was concerned from which round through which: int64[s] each, by owner and start, never overlapping.

    ``factors`` float64[s] belong to the slow and are 1 elsewhere.
    """

    owners: I64
    starts: I64
    ends: I64
    factors: F64
    _keys: I64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", (self.owners << _NUMBER_BITS) | self.starts)

    @classmethod
    def none(cls) -> Spells:
        """No spells at all."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(nothing, nothing, nothing, np.empty(0, dtype=np.float64))

    def find(self, round_index: int, owners: I64) -> I64:
        """The spell of each of ``owners`` that covers the round, int64[K]; -1 where there is none."""
        if len(self.owners) == 0 or not 0 <= round_index <= MAX_NUMBER:
            return np.full(len(owners), -1, dtype=np.int64)
        at = np.searchsorted(self._keys, (owners << _NUMBER_BITS) | round_index, side="right") - 1
        covers = (at >= 0) & (self.owners[at] == owners) & (self.ends[at] >= round_index)
        return np.where(covers, at, -1)


class _Rows:
    """Spells being read: 32 bytes a line, whatever the lines look like."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._factors = array("d")

    def add(self, line: int, owner: int, start: int, end: int, factor: float = 1.0) -> None:
        self._numbers.extend((line, owner, start, end))
        self._factors.append(factor)

    def _sorted(self) -> tuple[I64, F64]:
        numbers = np.array(self._numbers, dtype=np.int64).reshape(-1, 4)
        order = np.lexsort((numbers[:, 2], numbers[:, 1]))
        return numbers[order], np.array(self._factors, dtype=np.float64)[order]

    def merged(self) -> Spells:
        """Spells of one owner that touch or overlap made one."""
        numbers, _ = self._sorted()
        if len(numbers) == 0:
            return Spells.none()
        _, owner, start, end = numbers.T
        # Ends as one line for all owners, so that one running maximum does for all.
        line = np.maximum.accumulate((owner << _NUMBER_BITS) | end)
        reached = line & MAX_NUMBER
        begins = np.ones(len(owner), dtype=np.bool_)
        begins[1:] = (owner[1:] != owner[:-1]) | (start[1:] > reached[:-1] + 1)
        last = np.append(np.flatnonzero(begins)[1:], len(owner)) - 1
        return Spells(owner[begins], start[begins], reached[last], np.ones(int(begins.sum())))

    def disjoint(self, file: str) -> Spells:
        """The spells as they are; two of one owner that overlap are refused by the line of the later."""
        numbers, factors = self._sorted()
        line, owner, start, end = numbers.T
        overlap = (owner[1:] == owner[:-1]) & (start[1:] <= end[:-1])
        if overlap.any():
            at = int(np.argmax(overlap))
            first, second = sorted((int(line[at]), int(line[at + 1])))
            _refuse(file, second, f"overlaps the spell of owner {owner[at]} in line {first}")
        return Spells(owner.copy(), start.copy(), end.copy(), factors)


def read_presence(path: Path) -> Spells:
    """Spells of presence from a file of ``round, owner`` or ``owner, start_round, end_round``.

    Raises:
        DataRefused: no such file, another format, or a line that cannot be used, by its number.
        StorageError: the disk failed.
    """
    rows = _Rows()
    for line, record in _records(path, (_SINGLE, _SPELL)):
        owner = _integer(record, "owner", path.name, line)
        if "round" in record:
            start = end = _integer(record, "round", path.name, line)
        else:
            start, end = _span(record, path.name, line)
        rows.add(line, owner, start, end)
    return rows.merged()


def read_failures(path: Path) -> tuple[Spells, Spells, Spells]:
    """Spells of drops, of slowness and of crashes from ``owner, start_round, end_round, failure, factor``.

    Raises:
        DataRefused: no such file, another format, a line that cannot be used, or two of one owner and one
            failure that overlap, by their numbers.
        StorageError: the disk failed.
    """
    rows = {failure: _Rows() for failure in FAILURES}
    for line, record in _records(path, (_FAILURE,), optional=frozenset({"end_round", "factor"})):
        owner = _integer(record, "owner", path.name, line)
        start, end = _span(record, path.name, line)
        failure = str(record.get("failure", "")).strip()
        if failure not in FAILURES:
            _refuse(path.name, line, f"failure {failure!r:.60} given; allowed: {', '.join(FAILURES)}")
        factor = record.get("factor")
        if failure == "slow":
            rows[failure].add(line, owner, start, end, _factor(factor, path.name, line))
        elif factor in (None, ""):
            rows[failure].add(line, owner, start, end)
        else:
            _refuse(path.name, line, f"factor {factor!r:.60} given; allowed: none for {failure!r}")
    drops, slow, crashes = (rows[failure].disjoint(path.name) for failure in FAILURES)
    return drops, slow, crashes


def _span(record: _Record, file: str, line: int) -> tuple[int, int]:
    start = _integer(record, "start_round", file, line)
    end = MAX_NUMBER if record.get("end_round") in (None, "") else _integer(record, "end_round", file, line)
    if end < start:
        _refuse(file, line, f"end_round {end} given; allowed: {start} or later")
    return start, end


def _integer(record: _Record, key: str, file: str, line: int) -> int:
    value = record.get(key)
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else value
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        _refuse(file, line, f"{key} {value!r:.60} given; allowed: a whole number from 0 to {MAX_NUMBER}")
    return value


def _factor(value: object, file: str, line: int) -> float:
    number: object = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 1 <= number <= MAX_FACTOR:
        _refuse(file, line, f"factor {value!r:.60} given; allowed: a number from 1 to {MAX_FACTOR:g}")
    return float(number)


def _records(
    path: Path, shapes: tuple[frozenset[str], ...], *, optional: frozenset[str] = frozenset()
) -> Iterator[tuple[int, _Record]]:
    """Lines by number, their fields by name: those of one of ``shapes``, without any of the ``optional``."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise DataRefused("must end in .csv or .jsonl", where=path.name)
    try:
        # A link is followed: the user named this path.
        data = files.read_whole(Path(os.path.realpath(path)), max_bytes=MAX_BYTES)
    except FileNotFoundError as error:
        raise DataRefused("there is no such file", where=str(path)) from error
    if data is None:
        raise DataRefused(f"must be a regular file of at most {MAX_BYTES} bytes", where=path.name)
    lines = _csv(data, path.name) if suffix == ".csv" else _jsonl(data, path.name)
    count = 0
    accepted: list[str] = []
    for line, record in lines:
        fields = list(record)
        if fields != accepted:
            if not any(shape - optional <= set(fields) <= shape for shape in shapes):
                allowed = " or ".join(", ".join(sorted(shape)) for shape in shapes)
                _refuse(path.name, line, f"has the fields {', '.join(fields)[:200]}; allowed: {allowed}")
            accepted = fields
        count += 1
        if count > MAX_LINES:
            raise DataRefused(f"has more than {MAX_LINES} lines", where=path.name)
        yield line, record
    if count == 0:
        raise DataRefused("has no lines of data", where=path.name)


def _text(data: bytes, file: str) -> io.TextIOWrapper:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(file, data.count(b"\n", 0, error.start) + 1, "is not UTF-8")
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")


def _csv(data: bytes, file: str) -> Iterator[tuple[int, _Record]]:
    reader = csv.reader(_text(data, file), skipinitialspace=True, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                if len(set(header)) != len(header):
                    _refuse(file, reader.line_num, "names a column twice")
                continue
            if len(cells) != len(header):
                found = how_many(len(cells), "cell")
                _refuse(file, reader.line_num, f"has {found} where the header has {len(header)}")
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        _refuse(file, reader.line_num, str(error))


def _jsonl(data: bytes, file: str) -> Iterator[tuple[int, _Record]]:
    decoder = msgspec.json.Decoder(dict[str, str | int | float | None])
    for number, text in enumerate(io.BytesIO(data), start=1):
        if not text.strip():
            continue
        if len(text) > MAX_LINE_CHARS:
            _refuse(file, number, f"has more than {MAX_LINE_CHARS} characters")
        try:
            yield number, decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _refuse(file, number, f"is not an object of numbers and texts: {str(error)[:120]}")


def _refuse(file: str, line: int, problem: str) -> NoReturn:
    raise DataRefused(problem, where=f"{file}, line {line}")
