"""Comma-separated values to a ``Table``: encoding, delimiter and kinds found out, every doubt refused.

Rows are turned into compact arrays a block at a time, so that memory stays near eight bytes a cell.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from galaxylearning.storage.tables import (
    Kind,
    ReadOptions,
    Table,
    TableLimits,
    check_finite,
    check_names,
    check_size,
    refuse,
    refuse_missing,
    wanted_columns,
)
from galaxylearning.units import how_many

DELIMITERS: Final = (",", ";", "\t", "|")
MISSING: Final = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})

_BLOCK_ROWS: Final = 16_384
_SAMPLE_CHARS: Final = 1 << 16
_SAMPLE_ROWS: Final = 20
_PIECE_BYTES: Final = 1 << 20
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INFINITE: Final = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_DECIMAL_COMMA: Final = re.compile(r"[+-]?[0-9]+,[0-9]+")
_NOT_LATIN_TEXT: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NOT_TEXT: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def read_csv(data: bytes, file: str, options: ReadOptions) -> Table:
    """The table in ``data``, the bytes of a CSV file with a header row; ``file`` is its name in messages.

    Raises:
        DataRefused: not text, a broken or missing header, ragged rows, cells that are empty, not finite or of
            a kind other than the rest of their column, no rows, or over a limit.
    Source: RFC 4180.
    """
    encoding = find_encoding(data, file)
    with io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="") as sample:
        delimiter = find_delimiter(sample.read(_SAMPLE_CHARS))
    with io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="") as text:
        rows = _rows(text, delimiter, file)
        header = [name.strip() for name in next(rows, [])]
        check_names(header, file, options.limits)
        if all(_NUMBER.fullmatch(name) for name in header):
            refuse(file, "the first row must name the columns; it holds only numbers")
        wanted = set(wanted_columns(header, file, options))
        columns = [_Column(name, file, options) if name in wanted else None for name in header]
        n_rows = _fill(columns, rows, file, options.limits)
    return Table({column.name: column.finish() for column in columns if column is not None}, n_rows)


def find_encoding(data: bytes, file: str) -> str:
    """``utf-8-sig``, or ``latin-1`` for text that is not UTF-8 but has no control characters.

    Raises:
        DataRefused: UTF-16, or bytes that are no text.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        refuse(file, "is UTF-16; save it as UTF-8")
    control = _NOT_TEXT.search(data)
    if control is not None:
        refuse(
            file, f"is not text: byte {control.start()} is 0x{data[control.start()]:02x}; save it as UTF-8"
        )
    try:
        decoder = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
        while decoder.read(_PIECE_BYTES):
            pass
    except UnicodeDecodeError:
        control = _NOT_LATIN_TEXT.search(data)
        if control is not None:
            line = data.count(b"\n", 0, control.start()) + 1
            refuse(
                file,
                f"is neither UTF-8 nor Latin-1: line {line} has the byte 0x{data[control.start()]:02x}; "
                "save it as UTF-8",
            )
        return "latin-1"
    return "utf-8-sig"


def find_delimiter(sample: str) -> str:
    """The one of comma, semicolon, tab and bar that parts the first rows most evenly and most often."""
    complete = sample if len(sample) < _SAMPLE_CHARS else sample[: sample.rfind("\n") + 1]
    best, best_score = ",", (False, 1)
    for delimiter in DELIMITERS:
        widths = []
        try:
            for row in csv.reader(io.StringIO(complete, newline=""), delimiter=delimiter):
                if row:
                    widths.append(len(row))
                if len(widths) == _SAMPLE_ROWS:
                    break
        except csv.Error:
            continue
        if not widths:
            continue
        score = (len(set(widths)) == 1 and widths[0] > 1, widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _rows(text: io.TextIOWrapper, delimiter: str, file: str) -> Iterator[list[str]]:
    reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if row:
                yield row
    except csv.Error as error:
        refuse(file, f"line {reader.line_num}: {error}")


def _fill(columns: list[_Column | None], rows: Iterator[list[str]], file: str, limits: TableLimits) -> int:
    n_rows = 0
    block: list[list[str]] = []

    def flush() -> None:
        first = n_rows - len(block) + 1
        for column, cells in zip(columns, zip(*block, strict=True), strict=True):
            if column is not None:
                column.feed([cell.strip() for cell in cells], first)
        block.clear()

    for row in rows:
        n_rows += 1
        if len(row) != len(columns):
            cells, names = how_many(len(row), "cell"), how_many(len(columns), "column")
            refuse(file, f"has {cells} where the header names {names}", row=n_rows)
        if n_rows > limits.max_rows or n_rows * len(columns) > limits.max_cells:
            check_size(n_rows, n_rows * len(columns), file, limits)
        block.append(row)
        if len(block) == _BLOCK_ROWS:
            flush()
    if block:
        flush()
    check_size(n_rows, n_rows * len(columns), file, limits)
    return n_rows


class _Column:
    """One column being read; its kind is settled by the first block that has a value."""

    def __init__(self, name: str, file: str, options: ReadOptions) -> None:
        self.name = name
        self._file = file
        self._kind: Kind | None = options.kinds.get(name)
        self._is_fixed = self._kind is not None
        self._allow_missing = options.allow_missing
        self._max_cell_chars = options.limits.max_cell_chars
        self._parts: list[NDArray[Any]] = []
        self._undecided = 0
        self._texts: dict[str, str] = {}

    def feed(self, cells: list[str], first_row: int) -> None:
        """Take the next cells; ``first_row`` is the row of the first of them."""
        if max(map(len, cells)) > self._max_cell_chars:
            row = next(i for i, cell in enumerate(cells) if len(cell) > self._max_cell_chars)
            self._refuse(f"a cell has more than {self._max_cell_chars} characters", first_row + row)
        missing = [i for i, cell in enumerate(cells) if not cell or cell.lower() in MISSING]
        if self._kind is None:
            self._kind = self._kind_of(cells, missing)
        if self._kind is None:
            if missing and not self._allow_missing:
                refuse_missing(self._file, self.name, first_row + missing[0], cells[missing[0]])
            self._undecided += len(cells)
        elif self._kind == "category":
            self._feed_texts(cells, first_row)
        else:
            self._feed_numbers(cells, missing, first_row)

    def _kind_of(self, cells: list[str], missing: list[int]) -> Kind | None:
        absent = set(missing)
        present = [cell for i, cell in enumerate(cells) if i not in absent]
        if not present:
            return None
        if all(map(_INTEGER.fullmatch, present)):
            return "integer"
        if any(_NUMBER.fullmatch(cell) or _INFINITE.fullmatch(cell) for cell in present):
            return "number"
        return "category"

    def _feed_texts(self, cells: list[str], first_row: int) -> None:
        for i, cell in enumerate(cells):
            if not cell and not self._allow_missing:
                refuse_missing(self._file, self.name, first_row + i)
            if not self._is_fixed and _NUMBER.fullmatch(cell):
                self._refuse(
                    f"{cell[:40]!r} is a number while the cells before it are text; state the column's kind "
                    "if it is a category",
                    first_row + i,
                )
            if not self._is_fixed and _DECIMAL_COMMA.fullmatch(cell):
                self._refuse(f"{cell[:40]!r} has a decimal comma; write a decimal point", first_row + i)
        part = np.empty(len(cells), dtype=object)
        part[:] = [self._texts.setdefault(cell, cell) for cell in cells]
        self._parts.append(part)

    def _feed_numbers(self, cells: list[str], missing: list[int], first_row: int) -> None:
        if missing:
            if not self._allow_missing:
                refuse_missing(self._file, self.name, first_row + missing[0], cells[missing[0]])
            cells = list(cells)
            for i in missing:
                cells[i] = "nan"
        absent = set(missing)
        for i, cell in enumerate(cells):
            if i not in absent and _NUMBER.fullmatch(cell) is None:
                self._not_a_number(cell, first_row + i)
        if not missing and all(map(_INTEGER.fullmatch, cells)):
            try:
                self._parts.append(np.array([int(cell) for cell in cells], dtype=np.int64))
                return
            except OverflowError:
                row = next(i for i, cell in enumerate(cells) if abs(int(cell)) >> 63)
                self._refuse(
                    "the integer does not fit 64 bits; state the column's kind if it is a category",
                    first_row + row,
                )
        values = np.array(cells, dtype=np.float64)
        if np.isinf(values).any():
            self._refuse("the number is too large", first_row + int(np.argmax(np.isinf(values))))
        self._parts.append(values)

    def _not_a_number(self, cell: str, row: int) -> NoReturn:
        if _INFINITE.fullmatch(cell):
            self._refuse(f"{cell!r} is not a finite number", row)
        if _DECIMAL_COMMA.fullmatch(cell):
            self._refuse(f"{cell[:40]!r} has a decimal comma; write a decimal point", row)
        if self._is_fixed:
            self._refuse(f"{cell[:40]!r} is not a number; the column's kind is stated as {self._kind!r}", row)
        self._refuse(
            f"{cell[:40]!r} is not a number while other cells of the column are; state the column's kind "
            "if it is a category",
            row,
        )

    def finish(self) -> NDArray[Any]:
        """The whole column."""
        if self._kind is None:
            self._kind = "number"
        if self._undecided:
            filler: Any = "" if self._kind == "category" else np.nan
            dtype: Any = object if self._kind == "category" else np.float64
            self._parts.insert(0, np.full(self._undecided, filler, dtype=dtype))
        values = np.concatenate(self._parts)
        self._parts.clear()
        if self._kind == "number" and values.dtype != np.float64:
            values = values.astype(np.float64)
        if self._kind == "integer" and self._is_fixed and values.dtype != np.int64:
            whole = np.isnan(values) | (values == np.trunc(values))
            if not whole.all():
                self._refuse("is not a whole number", int(np.argmin(whole)) + 1)
            if not np.isnan(values).any():
                values = values.astype(np.int64)
        check_finite(values, self._file, self.name, allow_nan=self._allow_missing)
        return values

    def _refuse(self, problem: str, row: int) -> NoReturn:
        refuse(self._file, problem, row=row, column=self.name)
