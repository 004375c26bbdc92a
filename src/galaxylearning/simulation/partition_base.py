"""What partitioners share: their interface, the checks of arguments and columns, and cutting rows up.

A partition is an array of row numbers. Rows are grouped with sorts over whole arrays, never row by row, so
that a million rows fall into 100,000 partitions in about a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import F64, I64, require_integer, require_number
from galaxylearning.storage.tables import listed

MAX_PARTITIONS: Final = 10_000_000
MAX_CELLS: Final = 50_000_000
"""Most (partition, class) pairs that shares are drawn for: 200 MB of counts."""
MAX_SEED: Final = 2**63 - 1
MIN_ALPHA: Final = 1e-6
MAX_ALPHA: Final = 1e9


class Partitioner(Protocol):
    """Deals the rows of a data set out to partitions, one for each data owner."""

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition: every row at most once, no partition empty, the same every time.

        Args:
            columns: the data set's columns by name, each of ``n_rows`` rows; only the one that the
                partitioner looks at is needed.

        Raises:
            ConfigRefused: an argument that these data do not allow.
            DataRefused: no rows, or a column that is missing or cannot be used.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The distinct values of a column: ``codes`` int64[n] of each row, ``counts`` int64[C], texts."""

    codes: I64
    counts: I64
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def positions(self, order: I64) -> I64:
        """``order`` sorted by class; rows of one class stay in the order they had."""
        return order[np.argsort(self.codes[order], kind="stable")]


def require_count(value: object, field: str, *, low: int = 1, high: int = MAX_PARTITIONS) -> int:
    """An integer argument of a partitioner, or ``ConfigRefused`` with what is allowed."""
    return require_integer(value, field, low=low, high=high)


def require_flags(**flags: object) -> None:
    """Refuse arguments that must be true or false and are not."""
    for field, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigRefused(f"must be true or false, not {value!r:.60}", where=field)


def require_seed(seed: object) -> None:
    """Refuse a seed that is not an integer from 0: a split must be the same every time."""
    require_integer(seed, "seed", low=0, high=MAX_SEED)


def require_name(partition_by: object) -> None:
    """Refuse a ``partition_by`` that cannot name a column."""
    if not isinstance(partition_by, str) or not partition_by:
        raise ConfigRefused(f"must name a column, not {partition_by!r:.60}", where="partition_by")


def require_sizes(sizes: object) -> tuple[int, ...]:
    """``partition_sizes`` as a tuple of at least one positive integer."""
    if isinstance(sizes, str) or not isinstance(sizes, (Sequence, np.ndarray)) or len(sizes) == 0:
        raise ConfigRefused("must be a list of at least one number", where="partition_sizes")
    if len(sizes) > MAX_PARTITIONS:
        raise ConfigRefused(f"must be at most {MAX_PARTITIONS} numbers", where="partition_sizes")
    return tuple(
        require_integer(size, f"partition_sizes[{i}]", low=1, high=MAX_SEED) for i, size in enumerate(sizes)
    )


def require_alpha(alpha: object) -> float | tuple[float, ...]:
    """A Dirichlet concentration: one positive number, or a list of them."""
    if isinstance(alpha, (Sequence, np.ndarray)) and not isinstance(alpha, str):
        values = np.ravel(np.asarray(alpha, dtype=object))
        return tuple(
            require_number(value, f"alpha[{i}]", low=MIN_ALPHA, high=MAX_ALPHA)
            for i, value in enumerate(values)
        )
    return require_number(alpha, "alpha", low=MIN_ALPHA, high=MAX_ALPHA)


def spread_alpha(alpha: float | tuple[float, ...], size: int, of_what: str) -> F64:
    """``alpha`` as float64[size]; a list of another length is refused."""
    if isinstance(alpha, tuple):
        if len(alpha) != size:
            raise ConfigRefused(
                f"{len(alpha)} numbers given; allowed: one number, or {size}, one for each {of_what}",
                where="alpha",
            )
        return np.array(alpha, dtype=np.float64)
    return np.full(size, alpha, dtype=np.float64)


def check_rows(n_rows: int) -> None:
    """Refuse a data set without rows."""
    if n_rows < 1:
        raise DataRefused("there are no rows to deal out", where="data")


def check_partitions(num_partitions: int, n_rows: int) -> None:
    """Refuse more partitions than rows, and a data set without rows."""
    check_rows(n_rows)
    if num_partitions > n_rows:
        raise ConfigRefused(
            f"{num_partitions} given; allowed: 1 to {n_rows}, as each needs a row", where="num_partitions"
        )


def check_sum(sizes: Sequence[int], n_rows: int) -> None:
    """Refuse sizes that need more rows than there are."""
    check_rows(n_rows)
    total = sum(sizes)
    if total > n_rows:
        raise ConfigRefused(f"they sum to {total}; the data have {n_rows} rows", where="partition_sizes")


def check_cells(num_partitions: int, classes: Classes, partition_by: str) -> None:
    """Refuse a column of so many values that a share for each partition would not fit in memory."""
    if num_partitions * len(classes) > MAX_CELLS:
        raise DataRefused(
            f"has {len(classes)} different values; with {num_partitions} partitions at most "
            f"{MAX_CELLS // num_partitions} are allowed",
            where=f"partition_by {partition_by!r}",
        )


def find_column(columns: Mapping[str, NDArray[Any]], name: str, n_rows: int) -> NDArray[Any]:
    """The column ``name``: one value a row.

    Raises:
        DataRefused: no such column, more than one value a row, or another number of rows.
    """
    where = f"partition_by {name!r:.80}"
    if name not in columns:
        raise DataRefused(f"no such column; there are {listed(list(columns))}", where=where)
    values = np.asarray(columns[name])
    if values.ndim != 1:
        raise DataRefused(f"must hold one value a row, not shape {values.shape}", where=where)
    if len(values) != n_rows:
        raise DataRefused(f"has {len(values)} rows where the data have {n_rows}", where=where)
    return values


def find_classes(
    columns: Mapping[str, NDArray[Any]], name: str, n_rows: int, *, by_appearance: bool = False
) -> Classes:
    """The distinct values of the column ``name``, in ascending order or in that of their first rows.

    Raises:
        DataRefused: as ``find_column``; a cell that is empty or no number; values of a type without an order.
    """
    values = find_column(columns, name, n_rows)
    if values.dtype.kind in "OU":
        codes, names = _code_texts(values, name)
    elif values.dtype.kind in "biuf":
        if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
            row = int(np.argmin(np.isfinite(values))) + 1
            raise DataRefused(f"row {row} is empty or not finite", where=f"partition_by {name!r}")
        found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        codes = np.argsort(order)[inverse].astype(np.int64)
        names = [str(value) for value in found[order]]
        if not by_appearance:
            codes, names = inverse.astype(np.int64), [str(value) for value in found]
        return Classes(codes, np.bincount(codes, minlength=len(names)), tuple(names))
    else:
        raise DataRefused(f"holds {values.dtype}, not numbers or texts", where=f"partition_by {name!r}")
    if not by_appearance:
        ranks = sorted(range(len(names)), key=names.__getitem__)
        codes = np.argsort(np.array(ranks, dtype=np.int64))[codes]
        names = [names[i] for i in ranks]
    return Classes(codes, np.bincount(codes, minlength=len(names)), tuple(names))


def _code_texts(values: NDArray[Any], name: str) -> tuple[I64, list[str]]:
    """Numbers for texts by first appearance: a dictionary, as sorting a million texts takes seconds."""
    seen: dict[str, int] = {}
    codes = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values.tolist()):
        if not isinstance(value, str):
            raise DataRefused(
                f"row {row + 1} holds {type(value).__name__}, not a text", where=f"partition_by {name!r}"
            )
        if not value:
            raise DataRefused(f"row {row + 1} is empty", where=f"partition_by {name!r}")
        codes[row] = seen.setdefault(value, len(seen))
    return codes, list(seen)


def row_order(n_rows: int, shuffle: bool, rng: np.random.Generator) -> I64:
    """All rows, in random order or as stored."""
    return rng.permutation(n_rows) if shuffle else np.arange(n_rows, dtype=np.int64)


def cut(order: I64, sizes: I64) -> tuple[I64, ...]:
    """The first ``sizes[0]`` rows of ``order``, the next ``sizes[1]``, and so on; views of one array."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    return tuple(order[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))


def gather(
    rows: I64, owner: I64, num_partitions: int, shuffle: bool, rng: np.random.Generator
) -> tuple[I64, ...]:
    """Partitions of ``rows``, whose partitions are ``owner`` (int64, same length).

    Within a partition the rows are in random order, or ascending.
    """
    if shuffle:
        mixed = rng.permutation(len(rows))
        rows, owner = rows[mixed], owner[mixed]
        order = np.argsort(owner, kind="stable")
    else:
        order = np.lexsort((rows, owner))
    return cut(rows[order], np.bincount(owner, minlength=num_partitions))
