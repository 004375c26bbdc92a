"""Partitioners by who or what a row belongs to: ids, groups of ids, a real-valued property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.learning.vectors import I64, require_number
from galaxylearning.simulation.partition_base import (
    check_partitions,
    check_rows,
    find_classes,
    find_column,
    gather,
    require_count,
    require_flags,
    require_name,
    require_seed,
)
from galaxylearning.simulation.partition_sizes import even_sizes

GroupMode: TypeAlias = Literal["allow-smaller", "allow-bigger", "drop-reminder", "strict"]

GROUP_MODES: Final = ("allow-smaller", "allow-bigger", "drop-reminder", "strict")


@dataclass(frozen=True, slots=True)
class NaturalIdPartitioner:
    """One partition for each value of a column, in ascending order of the values, rows as stored."""

    partition_by: str

    def __post_init__(self) -> None:
        require_name(self.partition_by)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_rows(n_rows)
        classes = find_classes(columns, self.partition_by, n_rows)
        return _as_stored(classes.codes, len(classes))


@dataclass(frozen=True, slots=True)
class GroupedNaturalIdPartitioner:
    """One partition for each ``group_size`` values of a column, in order of their first rows or ascending.

    ``mode`` says what becomes of values left over: ``allow-smaller`` makes a last, smaller group of them,
    ``allow-bigger`` spreads them over the first groups, ``drop-reminder`` leaves their rows out, ``strict``
    refuses them.
    """

    partition_by: str
    group_size: int
    mode: GroupMode = "allow-smaller"
    sort_unique_ids: bool = False

    def __post_init__(self) -> None:
        require_name(self.partition_by)
        require_count(self.group_size, "group_size")
        if self.mode not in GROUP_MODES:
            raise ConfigRefused(f"{self.mode!r:.60} given; allowed: {', '.join(GROUP_MODES)}", where="mode")
        require_flags(sort_unique_ids=self.sort_unique_ids)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_rows(n_rows)
        classes = find_classes(columns, self.partition_by, n_rows, by_appearance=not self.sort_unique_ids)
        n_ids = len(classes)
        groups, rest = divmod(n_ids, self.group_size)
        if groups == 0 and self.mode != "allow-smaller":
            raise ConfigRefused(
                f"{self.group_size} given; allowed: 1 to {n_ids}, the different values of "
                f"{self.partition_by!r}",
                where="group_size",
            )
        if self.mode == "strict" and rest:
            raise ConfigRefused(
                f"{self.group_size} given leaves {rest} of {n_ids} values over; allowed in mode 'strict': a "
                "divisor of their number",
                where="group_size",
            )
        if self.mode == "allow-bigger":
            group_of = np.repeat(np.arange(groups), even_sizes(n_ids, groups))
        else:
            group_of = np.arange(n_ids, dtype=np.int64) // self.group_size
            if self.mode == "drop-reminder":
                group_of[groups * self.group_size :] = -1
        return _as_stored(group_of[classes.codes], int(group_of.max()) + 1)


def _as_stored(owner: I64, num_partitions: int) -> tuple[I64, ...]:
    rows = np.flatnonzero(owner >= 0)
    return gather(rows, owner[rows], num_partitions, False, np.random.default_rng(0))


@dataclass(frozen=True, slots=True)
class ContinuousPartitioner:
    """Equal parts of the rows sorted by a real-valued column that is blended with noise.

    The key is ``strictness * z + (1 - strictness) * noise``, ``z`` being the column with mean 0 and deviation
    1 and the noise standard normal: 0 deals rows out at random, 1 strictly by the column.
    """

    num_partitions: int
    partition_by: str
    strictness: float
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_count(self.num_partitions, "num_partitions")
        require_name(self.partition_by)
        require_number(self.strictness, "strictness", low=0, high=1)
        require_flags(shuffle=self.shuffle)
        require_seed(self.seed)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_partitions(self.num_partitions, n_rows)
        where = f"partition_by {self.partition_by!r}"
        values = find_column(columns, self.partition_by, n_rows)
        if values.dtype.kind not in "biuf":
            raise DataRefused("must hold numbers; a ContinuousPartitioner sorts by them", where=where)
        values = values.astype(np.float64)
        if not bool(np.isfinite(values).all()):
            row = int(np.argmin(np.isfinite(values))) + 1
            raise DataRefused(f"row {row} is empty or not finite", where=where)
        rng = np.random.default_rng(self.seed)
        noise = rng.standard_normal(n_rows)
        # Divided by the largest magnitude first: squares of large values would not be finite.
        values = values / max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
        deviation = float(values.std())
        if self.strictness > 0 and deviation < 1e-12:
            raise DataRefused(
                "holds one value only, which sorts nothing; allowed: another column, or strictness 0",
                where=where,
            )
        z = (values - values.mean()) / deviation if self.strictness > 0 else values
        order = np.argsort(self.strictness * z + (1 - self.strictness) * noise, kind="stable")
        owner = np.repeat(np.arange(self.num_partitions), even_sizes(n_rows, self.num_partitions))
        return gather(order, owner, self.num_partitions, self.shuffle, rng)
