"""Partitioners by label: a few classes each, shards of sorted rows, a table of shares.

Names and arguments are those of flwr-datasets. Classes are numbered in ascending order of their values
(texts as texts: "10" comes before "2").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.simulation.partition_base import (
    MAX_CELLS,
    MAX_SEED,
    Classes,
    check_cells,
    check_partitions,
    find_classes,
    gather,
    require_count,
    require_flags,
    require_name,
    require_seed,
    row_order,
)
from galaxylearning.simulation.partition_sizes import even_sizes

ClassAssignmentMode: TypeAlias = Literal["random", "deterministic", "first-deterministic"]

ASSIGNMENT_MODES: Final = ("random", "deterministic", "first-deterministic")
_CHUNK_CELLS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class PathologicalPartitioner:
    """Each partition has rows of exactly ``num_classes_per_partition`` classes.

    ``class_assignment_mode`` says which: ``random`` ones; ``deterministic``, partition ``i`` having classes
    ``i, i + 1, ...`` in a circle; or ``first-deterministic``, class ``i`` and random others. A class is
    divided evenly among the partitions that have it; rows of a class that no partition has are in none.

    Source: Li et al. 2021, arXiv 2102.02079, section 4.1 ("quantity-based label imbalance").
    """

    num_partitions: int
    partition_by: str
    num_classes_per_partition: int
    class_assignment_mode: ClassAssignmentMode = "random"
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_count(self.num_partitions, "num_partitions")
        require_name(self.partition_by)
        require_count(self.num_classes_per_partition, "num_classes_per_partition")
        if self.class_assignment_mode not in ASSIGNMENT_MODES:
            raise ConfigRefused(
                f"{self.class_assignment_mode!r:.60} given; allowed: {', '.join(ASSIGNMENT_MODES)}",
                where="class_assignment_mode",
            )
        require_flags(shuffle=self.shuffle)
        require_seed(self.seed)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_partitions(self.num_partitions, n_rows)
        classes = find_classes(columns, self.partition_by, n_rows)
        check_cells(self.num_partitions, classes, self.partition_by)
        if self.num_classes_per_partition > len(classes):
            raise ConfigRefused(
                f"{self.num_classes_per_partition} given; allowed: 1 to {len(classes)}, the classes that "
                f"{self.partition_by!r} has",
                where="num_classes_per_partition",
            )
        rng = np.random.default_rng(self.seed)
        taken = self._assign(len(classes), rng)
        owner, users = _evenly(classes, taken)
        scarce = np.flatnonzero(users > classes.counts)
        if scarce.size:
            c = int(scarce[0])
            raise ConfigRefused(
                f"class {classes.names[c]!r:.60} has {classes.counts[c]} rows for the {users[c]} partitions "
                "that are to have it; allowed: fewer partitions, fewer classes per partition, or "
                "class_assignment_mode='deterministic', which spreads classes evenly",
                where="num_partitions",
            )
        rows = classes.positions(row_order(n_rows, self.shuffle, rng))
        rows = rows[users[classes.codes[rows]] > 0]
        return gather(rows, owner, self.num_partitions, self.shuffle, rng)

    def _assign(self, n_classes: int, rng: np.random.Generator) -> I64:
        """Classes of each partition, int64[num_partitions, num_classes_per_partition]."""
        first = np.arange(self.num_partitions, dtype=np.int64) % n_classes
        wanted = self.num_classes_per_partition
        if self.class_assignment_mode == "deterministic":
            return (first[:, None] + np.arange(wanted)) % n_classes
        taken = np.empty((self.num_partitions, wanted), dtype=np.int64)
        chunk = max(1, _CHUNK_CELLS // n_classes)
        for start in range(0, self.num_partitions, chunk):
            keys = rng.random((min(chunk, self.num_partitions - start), n_classes))
            if self.class_assignment_mode == "first-deterministic":
                keys[np.arange(len(keys)), first[start : start + chunk]] = -1.0
            taken[start : start + chunk] = np.argsort(keys, axis=1)[:, :wanted]
        return taken


def _evenly(classes: Classes, taken: I64) -> tuple[I64, I64]:
    """Partition of each row that has one, rows sorted by class; and how many partitions have each class."""
    num_partitions, wanted = taken.shape
    label = taken.ravel()
    partition = np.repeat(np.arange(num_partitions, dtype=np.int64), wanted)
    order = np.argsort(label, kind="stable")
    label, partition = label[order], partition[order]
    users = np.bincount(label, minlength=len(classes))
    place = np.arange(len(label)) - (np.cumsum(users) - users)[label]
    part, rest = np.divmod(classes.counts, np.maximum(users, 1))
    return np.repeat(partition, part[label] + (place < rest[label])), users


@dataclass(frozen=True, slots=True)
class ShardPartitioner:
    """Rows sorted by label are cut into shards of ``shard_size``, which are dealt out at random.

    With ``num_shards_per_partition`` every partition has that many (``shard_size`` may be left out: rows are
    used as far as shards of equal size go). Without it all shards are dealt out, the first partitions having
    one more where they do not divide; ``keep_incomplete_shard`` says whether the last, smaller one counts.

    Source: McMahan et al. 2017, arXiv 1602.05629, section 3.
    """

    num_partitions: int
    partition_by: str
    num_shards_per_partition: int | None = None
    shard_size: int | None = None
    keep_incomplete_shard: bool = False
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_count(self.num_partitions, "num_partitions")
        require_name(self.partition_by)
        if self.num_shards_per_partition is None and self.shard_size is None:
            raise ConfigRefused("num_shards_per_partition or shard_size must be given", where="shard_size")
        if self.num_shards_per_partition is not None:
            require_count(self.num_shards_per_partition, "num_shards_per_partition")
        if self.shard_size is not None:
            require_count(self.shard_size, "shard_size", high=MAX_SEED)
        require_flags(keep_incomplete_shard=self.keep_incomplete_shard, shuffle=self.shuffle)
        require_seed(self.seed)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_partitions(self.num_partitions, n_rows)
        size = self._size(n_rows)
        usable = n_rows // size
        both = self.num_shards_per_partition is not None and self.shard_size is not None
        if self.keep_incomplete_shard and not both:
            usable = -(-n_rows // size)
        if self.num_shards_per_partition is None:
            if usable < self.num_partitions:
                raise ConfigRefused(
                    f"{size} given makes {usable} shards for {self.num_partitions} partitions; allowed: 1 to "
                    f"{n_rows // self.num_partitions}",
                    where="shard_size",
                )
            shards = even_sizes(usable, self.num_partitions)
        else:
            shards = np.full(self.num_partitions, self.num_shards_per_partition, dtype=np.int64)
        classes = find_classes(columns, self.partition_by, n_rows)
        rng = np.random.default_rng(self.seed)
        rows = classes.positions(row_order(n_rows, self.shuffle, rng))
        shard_owner = np.full(usable, -1, dtype=np.int64)
        dealt = rng.permutation(usable)[: shards.sum()]
        shard_owner[dealt] = np.repeat(np.arange(self.num_partitions), shards)
        owner = np.repeat(shard_owner, size)[:n_rows]
        rows = rows[: len(owner)]
        return gather(rows[owner >= 0], owner[owner >= 0], self.num_partitions, self.shuffle, rng)

    def _size(self, n_rows: int) -> int:
        if self.num_shards_per_partition is None:
            return int(self.shard_size or 1)
        needed = self.num_partitions * self.num_shards_per_partition
        most = n_rows // needed
        if most < 1:
            raise ConfigRefused(
                f"{self.num_shards_per_partition} given; allowed: 1 to {n_rows // self.num_partitions} with "
                f"{self.num_partitions} partitions of {n_rows} rows",
                where="num_shards_per_partition",
            )
        if self.shard_size is not None and self.shard_size > most:
            raise ConfigRefused(
                f"{self.shard_size} given; allowed: 1 to {most} with {needed} shards of {n_rows} rows",
                where="shard_size",
            )
        return int(self.shard_size or most)


@dataclass(frozen=True, slots=True, eq=False)
class DistributionPartitioner:
    """Partition ``i`` has classes ``i, i + 1, ...`` in a circle, each in the share that a table states.

    Row ``c`` of ``distribution_array`` belongs to class ``c`` and has one entry for each partition with that
    class, in ascending order; so it has ``num_unique_labels_per_partition * num_partitions / classes``
    columns. With ``rescale`` every partition first gets ``preassigned_num_samples_per_label`` rows of each of
    its classes and the entries divide the rest in proportion, rounded down; what is left of a class goes to
    one of its partitions at random. Without, the entries are numbers of rows, and rows beyond them are in no
    partition.

    Source: Li et al. 2020, arXiv 1812.06127, section 5.1 and appendix C.
    """

    distribution_array: ArrayLike
    num_partitions: int
    num_unique_labels_per_partition: int
    partition_by: str
    preassigned_num_samples_per_label: int
    rescale: bool = True
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_count(self.num_partitions, "num_partitions")
        require_count(self.num_unique_labels_per_partition, "num_unique_labels_per_partition")
        require_name(self.partition_by)
        require_count(self.preassigned_num_samples_per_label, "preassigned_num_samples_per_label", low=0)
        require_flags(rescale=self.rescale, shuffle=self.shuffle)
        require_seed(self.seed)
        object.__setattr__(self, "distribution_array", _require_table(self.distribution_array))

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_partitions(self.num_partitions, n_rows)
        classes = find_classes(columns, self.partition_by, n_rows)
        self._check(classes)
        wanted = self.num_unique_labels_per_partition
        rng = np.random.default_rng(self.seed)
        counts = self._counts(classes, rng)
        taken = (np.arange(self.num_partitions)[:, None] + np.arange(wanted)) % len(classes)
        partition = np.repeat(np.arange(self.num_partitions, dtype=np.int64), wanted)
        partition = partition[np.argsort(taken.ravel(), kind="stable")]
        owner = np.repeat(partition, counts.ravel())
        empty = np.bincount(owner, minlength=self.num_partitions) == 0
        if empty.any():
            where = "preassigned_num_samples_per_label" if self.rescale else "distribution_array"
            raise ConfigRefused(
                f"partition {int(np.argmax(empty))} gets no rows; allowed: larger numbers", where=where
            )
        rows = classes.positions(row_order(n_rows, self.shuffle, rng))
        # Of every class as many rows as were given out, from its first.
        place = np.arange(n_rows) - np.repeat(np.cumsum(classes.counts) - classes.counts, classes.counts)
        rows = rows[place < np.repeat(counts.sum(axis=1), classes.counts)]
        return gather(rows, owner, self.num_partitions, self.shuffle, rng)

    def _check(self, classes: Classes) -> None:
        table, n_classes = _table(self.distribution_array), len(classes)
        if self.num_unique_labels_per_partition > n_classes:
            raise ConfigRefused(
                f"{self.num_unique_labels_per_partition} given; allowed: 1 to {n_classes}",
                where="num_unique_labels_per_partition",
            )
        if self.num_partitions % n_classes:
            raise ConfigRefused(
                f"{self.num_partitions} given; allowed: multiples of {n_classes}, the number of classes",
                where="num_partitions",
            )
        shape = (n_classes, self.num_unique_labels_per_partition * self.num_partitions // n_classes)
        if table.shape != shape:
            raise ConfigRefused(f"has shape {table.shape}; allowed: {shape}", where="distribution_array")

    def _counts(self, classes: Classes, rng: np.random.Generator) -> I64:
        """Rows of each class for each of its partitions, int64[C, columns]."""
        table = _table(self.distribution_array)
        if not self.rescale:
            counts = table.astype(np.int64)
            over = counts.sum(axis=1) > classes.counts
            if over.any():
                c = int(np.argmax(over))
                raise ConfigRefused(
                    f"row {c} sums to {counts[c].sum()}; class {classes.names[c]!r:.60} has "
                    f"{classes.counts[c]} rows",
                    where="distribution_array",
                )
            return counts
        ahead = self.preassigned_num_samples_per_label * table.shape[1]
        if ahead > classes.counts.min():
            raise ConfigRefused(
                f"{self.preassigned_num_samples_per_label} given; allowed: 0 to "
                f"{classes.counts.min() // table.shape[1]}, as a class has {classes.counts.min()} rows for "
                f"{table.shape[1]} partitions",
                where="preassigned_num_samples_per_label",
            )
        rest = classes.counts - ahead
        counts = (table / table.sum(axis=1, keepdims=True) * rest[:, None]).astype(np.int64)
        lucky = rng.integers(0, table.shape[1], size=len(classes))
        counts[np.arange(len(classes)), lucky] += rest - counts.sum(axis=1)
        total: I64 = counts + self.preassigned_num_samples_per_label
        return total


def _require_table(value: ArrayLike) -> F64:
    """``distribution_array`` as float64 of two dimensions, no entry negative, no row all zero."""
    try:
        table = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigRefused(f"must be a table of numbers: {error}", where="distribution_array") from error
    if table.ndim != 2 or not 0 < table.size <= MAX_CELLS:
        raise ConfigRefused(
            f"must have two dimensions and 1 to {MAX_CELLS} entries, not shape {table.shape}",
            where="distribution_array",
        )
    if not bool((table >= 0).all()) or bool((table.max(axis=1) <= 0).any()) or table.max() > 1e12:
        raise ConfigRefused(
            "entries must be from 0 to 1e12, and no row may be all zero", where="distribution_array"
        )
    return table


def _table(value: ArrayLike) -> F64:
    return np.asarray(value, dtype=np.float64)
