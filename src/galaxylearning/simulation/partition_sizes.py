"""Partitioners that look at no column: equal parts, sizes that are given, sizes that grow with the number.

Names, arguments and meaning are those of flwr-datasets, whose loader shuffles a data set before it is cut;
here the partitioner itself does (``shuffle``, ``seed``), and ``shuffle=False`` cuts the rows as they are
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.simulation.partition_base import (
    check_partitions,
    check_rows,
    check_sum,
    cut,
    require_count,
    require_flags,
    require_seed,
    require_sizes,
    row_order,
)


@dataclass(frozen=True, slots=True)
class IidPartitioner:
    """Equal parts of the rows in random order; where they do not divide, the first parts have one more."""

    num_partitions: int
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_count(self.num_partitions, "num_partitions")
        require_flags(shuffle=self.shuffle)
        require_seed(self.seed)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:  # noqa: ARG002
        """Row numbers of each partition; see ``Partitioner``."""
        check_partitions(self.num_partitions, n_rows)
        order = row_order(n_rows, self.shuffle, np.random.default_rng(self.seed))
        return cut(order, even_sizes(n_rows, self.num_partitions))


@dataclass(frozen=True, slots=True)
class SizePartitioner:
    """Partition ``i`` has ``partition_sizes[i]`` rows; rows beyond their sum are in none."""

    partition_sizes: Sequence[int]
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        object.__setattr__(self, "partition_sizes", require_sizes(self.partition_sizes))
        require_flags(shuffle=self.shuffle)
        require_seed(self.seed)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:  # noqa: ARG002
        """Row numbers of each partition; see ``Partitioner``."""
        check_sum(self.partition_sizes, n_rows)
        order = row_order(n_rows, self.shuffle, np.random.default_rng(self.seed))
        return cut(order, np.array(self.partition_sizes, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class _GrowingPartitioner:
    """Sizes in proportion to a function of the partition's number, rounded down; the rest to the last."""

    num_partitions: int
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_count(self.num_partitions, "num_partitions")
        require_flags(shuffle=self.shuffle)
        require_seed(self.seed)

    def _split(self, n_rows: int, units: Callable[[int], F64]) -> tuple[I64, ...]:
        check_rows(n_rows)
        sizes = _proportional(n_rows, units(min(self.num_partitions, n_rows + 1)))
        if sizes[0] < 1:
            most = _most_partitions(n_rows, units)
            raise ConfigRefused(
                f"{self.num_partitions} given leaves partition 0 without rows; allowed: 1 to {most} "
                f"with {n_rows} rows",
                where="num_partitions",
            )
        order = row_order(n_rows, self.shuffle, np.random.default_rng(self.seed))
        return cut(order, sizes)


@dataclass(frozen=True, slots=True)
class LinearPartitioner(_GrowingPartitioner):
    """Partition ``i`` of 1, 2, ... has rows in proportion to ``i``."""

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:  # noqa: ARG002
        """Row numbers of each partition; see ``Partitioner``."""
        return self._split(n_rows, _linear)


@dataclass(frozen=True, slots=True)
class SquarePartitioner(_GrowingPartitioner):
    """Partition ``i`` of 1, 2, ... has rows in proportion to ``i`` squared."""

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:  # noqa: ARG002
        """Row numbers of each partition; see ``Partitioner``."""
        return self._split(n_rows, _square)


@dataclass(frozen=True, slots=True)
class ExponentialPartitioner(_GrowingPartitioner):
    """Partition ``i`` of 1, 2, ... has rows in proportion to ``e ** i``: ten partitions need 13,000 rows."""

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:  # noqa: ARG002
        """Row numbers of each partition; see ``Partitioner``."""
        return self._split(n_rows, _exponential)


def even_sizes(total: int, parts: int) -> I64:
    """``parts`` sizes that sum to ``total`` and differ by one at most, the larger first."""
    sizes = np.full(parts, total // parts, dtype=np.int64)
    sizes[: total % parts] += 1
    return sizes


def _linear(parts: int) -> F64:
    return np.arange(1, parts + 1, dtype=np.float64)


def _square(parts: int) -> F64:
    return _linear(parts) ** 2


def _exponential(parts: int) -> F64:
    # Relative to the largest: e ** 710 is infinite already.
    return np.exp(_linear(parts) - parts)


def _proportional(n_rows: int, units: F64) -> I64:
    sizes: I64 = (units / units.sum() * n_rows).astype(np.int64)
    sizes[-1] += n_rows - sizes.sum()
    return sizes


def _most_partitions(n_rows: int, units: Callable[[int], F64]) -> int:
    """The largest number of partitions whose first one has a row; one always does."""
    low, high = 1, n_rows + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _proportional(n_rows, units(middle))[0] >= 1:
            low = middle
        else:
            high = middle
    return low
