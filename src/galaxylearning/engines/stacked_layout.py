"""Which rows each data owner's next batch has, and how the batches of many lie side by side.

The batches are those of ``learning.local.batches``. Data owners of a chunk are sorted by their number of
rows: those with equally many rows in a batch are neighbours and form a group, and those that have more steps
to take than others are the last ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from galaxylearning.engines.cohort import Cohort, owner_rng
from galaxylearning.graph.dense_frames import Group
from galaxylearning.learning.local import batches
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.vectors import F32, I64

PADDING = 0.25
"""A group is padded by at most this share of its rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One step of a chunk: its data owners from ``first`` on take part, ``sizes`` rows each.

    Column ``j`` is pool row ``index[j]`` and counts ``weights[j]``: one over the batch's size, 0 where a
    batch is padded with its last row to its group's width. Groups count data owners from ``first``, and
    ``starts`` are the first columns of each.
    """

    first: int
    sizes: I64
    groups: Sequence[Group]
    starts: I64
    index: I64
    weights: F32

    @property
    def columns(self) -> int:
        """Rows of all batches, with padding."""
        return len(self.index)


def grouped(sizes: I64, merge: int) -> list[Group]:
    """Neighbours of equal size as groups. Groups are joined, the smaller batches padded, where that takes at
    most ``merge`` columns: a call of its own would cost more.
    """
    bounds = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]
    groups: list[Group] = []
    first, width, real, start = 0, 0, 0, 0
    for a, b in pairwise(bounds):
        size = int(sizes[a])
        wider = max(width, size)
        total = real + size * (b - a)
        padding = wider * (b - first) - total
        grows = padding - (width * (a - first) - real)
        if a > first and (grows > merge or padding > PADDING * total):
            groups.append(Group(first, a, width, start))
            start += width * (a - first)
            first, wider, total = a, size, size * (b - a)
        width, real = wider, total
    groups.append(Group(first, len(sizes), width, start))
    return groups


class Schedule:
    """The batches of a chunk's data owners in one round, step by step.

    ``owners`` and ``counts`` (their rows) are sorted by ``counts``. Layouts must be asked for in the order of
    steps, unless the schedule :attr:`is_fixed`: then every round has the same.
    """

    def __init__(
        self,
        cohort: Cohort,
        plan: LocalPlan,
        seed: int,
        round_index: int,
        owners: I64,
        counts: I64,
        merge: int,
    ) -> None:
        self.steps = steps_taken(counts, plan)
        self.is_single = bool(counts[-1] <= plan.batch_size)
        self.is_fixed = self.is_single or plan.order == "stored"
        self._cohort, self._plan, self._merge = cohort, plan, merge
        self._offsets, self._counts = cohort.offsets[owners], counts
        self._single: Layout | None = None
        self._drawn: dict[int, Iterator[I64]] = {}
        if not self.is_fixed:
            # Where all rows fit one batch, every batch holds all of them and their order does not matter.
            for i in np.flatnonzero(counts > plan.batch_size).tolist():
                rng = owner_rng(seed, round_index, cohort.identities[int(owners[i])])
                self._drawn[i] = batches(int(counts[i]), plan, rng)

    def layout(self, step: int) -> Layout:
        """The batches of step ``step``, counted from 0."""
        if self._single is not None:
            return self._single
        first = int(np.searchsorted(self.steps, step, side="right"))
        begins, sizes = self._stored(first, step)
        drawn = {i: next(self._drawn[i]) for i in self._drawn if i >= first}
        for i, rows in drawn.items():
            sizes[i - first] = len(rows)
        groups = grouped(sizes, self._merge)
        widths = np.repeat([g.width for g in groups], [g.last - g.first for g in groups])
        ends = np.cumsum(widths)
        starts = ends - widths
        along = np.arange(int(ends[-1])) - np.repeat(starts, widths)
        real = np.repeat(sizes, widths)
        index = np.repeat(begins + self._offsets[first:], widths) + np.minimum(along, real - 1)
        weights = np.repeat((1.0 / sizes).astype(np.float32), widths) * (along < real)
        for i, rows in drawn.items():
            at, offset = int(starts[i - first]), self._offsets[i]
            index[at : int(ends[i - first])] = offset + rows[-1]
            index[at : at + len(rows)] = offset + rows
        found = Layout(first, sizes, groups, starts, self._cohort.index[index], weights)
        if self.is_single:
            self._single = found
        return found

    def _stored(self, first: int, step: int) -> tuple[I64, I64]:
        """Where batches begin among each owner's rows, and their sizes, if rows are taken as they lie."""
        counts, size = self._counts[first:], self._plan.batch_size
        begins = step % -(-counts // size) * size
        return begins, np.minimum(size, counts - begins)


def steps_taken(counts: I64, plan: LocalPlan) -> I64:
    """Optimiser steps of data owners with ``counts`` rows."""
    if plan.epochs is None:
        return np.full(len(counts), plan.steps, np.int64)
    return plan.epochs * -(-counts // plan.batch_size)
