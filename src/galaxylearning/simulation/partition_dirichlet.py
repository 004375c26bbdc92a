"""Partitioners whose class shares are drawn from a Dirichlet distribution; names as in flwr-datasets.

The smaller ``alpha``, the more lopsided the shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.vectors import F64, I64
from galaxylearning.simulation.partition_base import (
    Classes,
    check_cells,
    check_partitions,
    check_sum,
    find_classes,
    gather,
    require_alpha,
    require_count,
    require_flags,
    require_name,
    require_seed,
    require_sizes,
    row_order,
    spread_alpha,
)

ATTEMPTS: Final = 10
"""How often shares are drawn before ``min_partition_size`` is called out of reach."""

_MIN_CHUNK, _MAX_CHUNK, _CHUNK_CELLS = 256, 1 << 16, 1 << 22


@dataclass(frozen=True, slots=True)
class DirichletPartitioner:
    """Each class is divided among the partitions in shares drawn from a Dirichlet distribution.

    ``alpha`` is one number or one for each partition. Shares are drawn anew until every partition has
    ``min_partition_size`` rows, ten times at most. With ``self_balancing`` a partition that already has more
    than the average gets nothing of the classes that follow.

    Source: Yurochkin et al. 2019, arXiv 1905.12022, section 4.
    """

    num_partitions: int
    partition_by: str
    alpha: float | Sequence[float]
    min_partition_size: int = 10
    self_balancing: bool = False
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        require_count(self.num_partitions, "num_partitions")
        require_name(self.partition_by)
        object.__setattr__(self, "alpha", require_alpha(self.alpha))
        require_count(self.min_partition_size, "min_partition_size")
        require_flags(self_balancing=self.self_balancing, shuffle=self.shuffle)
        require_seed(self.seed)
        spread_alpha(require_alpha(self.alpha), self.num_partitions, "partition")

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_partitions(self.num_partitions, n_rows)
        if self.num_partitions * self.min_partition_size > n_rows:
            raise ConfigRefused(
                f"{self.min_partition_size} given; allowed: 1 to {n_rows // self.num_partitions} with "
                f"{self.num_partitions} partitions of {n_rows} rows",
                where="min_partition_size",
            )
        classes = find_classes(columns, self.partition_by, n_rows)
        check_cells(self.num_partitions, classes, self.partition_by)
        rng = np.random.default_rng(self.seed)
        rows = classes.positions(row_order(n_rows, self.shuffle, rng))
        alpha = spread_alpha(require_alpha(self.alpha), self.num_partitions, "partition")
        smallest = 0
        for _ in range(ATTEMPTS):
            counts = self._draw(classes, alpha, rng)
            least = int(counts.sum(axis=0, dtype=np.int64).min())
            if least >= self.min_partition_size:
                return gather(rows, _owners(counts), self.num_partitions, self.shuffle, rng)
            smallest = max(smallest, least)
        raise ConfigRefused(
            f"{self.min_partition_size} rows in every partition were not reached in {ATTEMPTS} draws, at "
            f"best {smallest}; allowed: a smaller min_partition_size, a larger alpha, fewer partitions, or "
            "given sizes (inner-dirichlet:alpha=A,partition_sizes=N as --partition; an "
            "InnerDirichletPartitioner in Python)",
            where="min_partition_size",
        )

    def _draw(self, classes: Classes, alpha: F64, rng: np.random.Generator) -> NDArray[np.int32]:
        """How many rows of each class each partition gets, int32[C, num_partitions]."""
        counts = np.empty((len(classes), self.num_partitions), dtype=np.int32)
        sizes = np.zeros(self.num_partitions, dtype=np.int64)
        average = len(classes.codes) / self.num_partitions
        for c, n_class in enumerate(classes.counts.tolist()):
            share = rng.dirichlet(alpha)
            if self.self_balancing:
                share = _among(share, sizes <= average)
            ends = np.minimum(np.cumsum(share) * n_class, n_class).astype(np.int64)
            ends[-1] = n_class
            counts[c] = np.diff(ends, prepend=0)
            sizes += counts[c]
        return counts


def _among(share: F64, eligible: NDArray[np.bool_]) -> F64:
    """``share`` of those eligible, summing to one; equal parts where theirs vanish."""
    kept = np.where(eligible, share, 0.0)
    total = kept.sum()
    among: F64 = kept / total if total > 0 else eligible / eligible.sum()
    return among


def _owners(counts: NDArray[np.int32]) -> I64:
    """The partition of each row, the rows being sorted by class."""
    partitions = np.arange(counts.shape[1], dtype=np.int64)
    return np.concatenate([np.repeat(partitions, row) for row in counts])


@dataclass(frozen=True, slots=True)
class InnerDirichletPartitioner:
    """Partition ``i`` has ``partition_sizes[i]`` rows of classes drawn from shares of its own.

    ``alpha`` is one number or one for each class in ascending order. Places are filled one by one in random
    order; when a class runs out, the other shares grow in proportion.

    Source: Acar et al. 2021, arXiv 2111.04263, appendix.
    """

    partition_sizes: Sequence[int]
    partition_by: str
    alpha: float | Sequence[float]
    shuffle: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        object.__setattr__(self, "partition_sizes", require_sizes(self.partition_sizes))
        require_name(self.partition_by)
        object.__setattr__(self, "alpha", require_alpha(self.alpha))
        require_flags(shuffle=self.shuffle)
        require_seed(self.seed)

    def split(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> tuple[I64, ...]:
        """Row numbers of each partition; see ``Partitioner``."""
        check_sum(self.partition_sizes, n_rows)
        num_partitions = len(self.partition_sizes)
        classes = find_classes(columns, self.partition_by, n_rows)
        check_cells(num_partitions, classes, self.partition_by)
        alpha = spread_alpha(require_alpha(self.alpha), len(classes), "class")
        rng = np.random.default_rng(self.seed)
        rows = classes.positions(row_order(n_rows, self.shuffle, rng))
        shares = rng.dirichlet(alpha, size=num_partitions)
        sizes = np.array(self.partition_sizes, dtype=np.int64)
        owner = rng.permutation(np.repeat(np.arange(num_partitions, dtype=np.int64), sizes))
        drawn = _draw_classes(owner, shares, classes.counts, rng)
        first = np.cumsum(classes.counts) - classes.counts
        return gather(rows[first[drawn] + _ranks(drawn)], owner, num_partitions, self.shuffle, rng)


def _draw_classes(owner: I64, shares: F64, supply: I64, rng: np.random.Generator) -> I64:
    """A class for each place, by its owner's shares among the classes that are not used up by then.

    Places are drawn for in bulk. Where a class runs out, only the later places that had drawn it draw again:
    what the others drew is distributed as if they had known.
    """
    left = supply.copy()
    n_classes = len(supply)
    # One increasing line for all owners: owner k's cumulative shares lie in [k, k + 1].
    line = (np.cumsum(shares, axis=1) + np.arange(len(shares))[:, None]).ravel()
    drawn = np.empty(len(owner), dtype=np.int64)
    chunk = max(_MIN_CHUNK, min(_MAX_CHUNK, _CHUNK_CELLS // n_classes))
    for start in range(0, len(owner), chunk):
        who = owner[start : start + chunk]
        found = np.searchsorted(line, who + rng.random(len(who)), side="right") - who * n_classes
        got = np.clip(found, 0, n_classes - 1)
        settled = start
        while True:
            used_up = left[got] == 0
            if used_up.any():
                got[used_up] = _draw_among(shares[who[used_up]], left, rng)
            excess = _ranks(got) >= left[got]
            # Everything before the first place that finds its class used up is settled.
            end = int(np.argmax(excess)) if excess.any() else len(got)
            drawn[settled : settled + end] = got[:end]
            left -= np.bincount(got[:end], minlength=n_classes)
            settled, who, got = settled + end, who[end:], got[end:]
            if len(got) == 0:
                break
    return drawn


def _draw_among(shares: F64, left: I64, rng: np.random.Generator) -> I64:
    """One class for each row of ``shares`` among those with rows left, however small their shares."""
    open_shares = np.where(left > 0, shares, 0.0)
    nothing = open_shares.sum(axis=1) == 0
    open_shares[nothing] = left
    ends = np.cumsum(open_shares, axis=1)
    point = rng.random(len(shares)) * ends[:, -1]
    got = (ends <= point[:, None]).sum(axis=1)
    # Rounding may reach the end of the line: the last class that is open.
    last = len(left) - 1 - int(np.argmax(left[::-1] > 0))
    drawn: I64 = np.minimum(got, last)
    return drawn


def _ranks(codes: I64) -> I64:
    """How many equal codes come before each: int64, same length."""
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks
