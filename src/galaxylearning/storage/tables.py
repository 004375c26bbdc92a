"""A data file in memory: named columns of equal length, and the limits on what may be loaded.

The readers (CSV, Parquet, npz) produce a ``Table`` or refuse with the file, the row and the column. Row 1 is
the first row of data: a header does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import DataRefused

Kind: TypeAlias = Literal["number", "category", "integer"]
"""What a column holds: real numbers, whole numbers, or one of a set of texts."""

KINDS: Final = ("number", "category", "integer")
MAX_NAME_CHARS: Final = 200
MAX_ABS: Final = 1e100


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Bounds on one data file; whatever is larger is refused before it is read or unpacked."""

    max_file_bytes: int = 1 << 29
    max_unpacked_bytes: int = 1 << 31
    max_rows: int = 10_000_000
    max_columns: int = 10_000
    max_cells: int = 50_000_000
    max_cell_chars: int = 1_000


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a data file.

    ``kinds`` overrides the kind found for a column; ``only`` names the columns to read, where not all;
    ``allow_missing`` lets cells be empty instead of refusing the first one that is.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    only: Sequence[str] | None = None
    allow_missing: bool = False
    limits: TableLimits = field(default_factory=TableLimits)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns by name, each with ``n_rows`` rows.

    An array is float64 (numbers), int64 (integers), object holding ``str`` (categories), or, from npz only,
    of two or more dimensions with one of the dtypes float32, float64, int32, int64, uint8. A missing number
    is NaN and a missing category is the empty text; where any are allowed, an integer column that has some
    holds numbers.
    """

    columns: Mapping[str, NDArray[Any]]
    n_rows: int


def refuse(file: str, problem: str, *, row: int | None = None, column: str | None = None) -> NoReturn:
    """Raise ``DataRefused`` naming the file and, where known, the row and the column."""
    place = [file]
    if row is not None:
        place.append(f"row {row}")
    if column is not None:
        place.append(f"column {column!r}")
    raise DataRefused(problem, where=", ".join(place))


def refuse_missing(file: str, column: str, row: int, cell: str = "") -> NoReturn:
    """Raise ``DataRefused`` for a missing value, saying what can be done; ``cell`` is what stands there."""
    found = f"{cell[:40]!r} stands for a missing value" if cell else "the cell is empty"
    refuse(
        file,
        f"{found}; fill it in, leave the row out, or use only columns without gaps (only=, --only)",
        row=row,
        column=column,
    )


@contextmanager
def in_file(name: str) -> Iterator[None]:
    """Name the file in what is refused while the block runs.

    Raises:
        DataRefused: what the block refused.
    """
    try:
        yield
    except DataRefused as error:
        raise DataRefused(str(error), where=name) from error


def check_names(names: list[str], file: str, limits: TableLimits) -> None:
    """Refuse a file without columns, with too many, or with names that are empty, odd or used twice."""
    if not names:
        refuse(file, "has no columns")
    if len(names) > limits.max_columns:
        refuse(file, f"has {len(names)} columns; at most {limits.max_columns} are allowed")
    seen = set()
    for position, name in enumerate(names, start=1):
        if not name:
            refuse(file, f"column {position} has no name: every column needs one")
        if len(name) > MAX_NAME_CHARS or not name.isprintable():
            refuse(
                file,
                f"the name of column {position} must be at most {MAX_NAME_CHARS} printable characters",
            )
        if name in seen:
            refuse(file, "the name is used for more than one column", column=name)
        seen.add(name)


def check_size(n_rows: int, n_cells: int, file: str, limits: TableLimits) -> None:
    """Refuse a table without rows or with more rows or cells than allowed."""
    if n_rows == 0:
        refuse(file, "has no rows of data")
    if n_rows > limits.max_rows:
        refuse(file, f"has more than {limits.max_rows} rows")
    if n_cells > limits.max_cells:
        refuse(file, f"has more than {limits.max_cells} cells")


def check_finite(values: NDArray[Any], file: str, column: str, *, allow_nan: bool) -> None:
    """Refuse what has no usable moments (infinities, more than 1e100, NaN unless allowed), naming the row."""
    if values.dtype.kind != "f":
        return
    limit = min(MAX_ABS, float(np.finfo(values.dtype).max))
    bad = np.abs(values) > limit if allow_nan else ~(np.abs(values) <= limit)
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        row = int(place[0]) + 1
        if np.isnan(values[place]):
            refuse_missing(file, column, row, "nan")
        refuse(file, f"is not a finite number within ±{limit:g}", row=row, column=column)


def wanted_columns(names: list[str], file: str, options: ReadOptions) -> list[str]:
    """The columns to read, in the file's order; options that name no column of it are refused."""
    for name in (*options.kinds, *(options.only or ())):
        if name not in names:
            refuse(file, f"no such column; there are {listed(names)}", column=name)
    for name, kind in options.kinds.items():
        if kind not in KINDS:
            refuse(file, f"kind {kind!r} must be one of {', '.join(KINDS)}", column=name)
    wanted = [name for name in names if options.only is None or name in options.only]
    if not wanted:
        refuse(file, "at least one column must be read")
    return wanted


def listed(names: list[str]) -> str:
    """The first few of ``names``, for a message."""
    shown = ", ".join(repr(name[:40]) for name in names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"
