"""Many data owners' batches side by side: which rows each takes at each step. Knows no tensor library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from galaxylearning.engines.cohort import Cohort, owner_rng
from galaxylearning.engines.engine import Training
from galaxylearning.learning.local import batches
from galaxylearning.learning.plan import MAX_STEPS, LocalPlan
from galaxylearning.learning.vectors import F32, I64

_NO_CHANCE = np.random.default_rng(0)
"""Stands where a generator is asked for by an order of rows that draws nothing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many optimiser steps a data owner takes, and its largest batch."""

    steps: int
    batch: int


def shape_of(rows: int, plan: LocalPlan) -> Shape:
    """The shape of a training over ``rows`` rows.

    Raises:
        ValueError: it would take more than ``MAX_STEPS`` steps.
    """
    if plan.epochs is None:
        return Shape(plan.steps or 0, min(plan.batch_size, rows))
    per_pass = -(-rows // plan.batch_size)
    if plan.epochs * per_pass > MAX_STEPS:
        raise ValueError(f"epochs must give at most {MAX_STEPS} steps over {rows} rows")
    largest = min(plan.batch_size, rows) if plan.order == "stored" else -(-rows // per_pass)
    return Shape(plan.epochs * per_pass, largest)


def shapes_of(counts: I64, plan: LocalPlan) -> tuple[I64, I64]:
    """Steps int64[K] and largest batches int64[K] of data owners with so many rows.

    Raises:
        ValueError: as :func:`shape_of`.
    """
    distinct, place = np.unique(counts, return_inverse=True)
    shapes = [shape_of(int(rows), plan) for rows in distinct]
    steps = np.array([shape.steps for shape in shapes], np.int64)
    largest = np.array([shape.batch for shape in shapes], np.int64)
    return steps[place], largest[place]


def padded_batches(
    cohort: Cohort, training: Training, owners: Sequence[int], round_index: int, width: int
) -> Iterator[tuple[I64, F32]]:
    """Rows of the pool int64[a, width] and their weights f32[a, width], step by step.

    ``owners`` must come with falling numbers of steps: at every step the first ``a`` are still training.
    A row's weight is one over its batch's size; a shorter batch is filled up with its first row, weight 0.
    """
    sources = _sources(cohort, training, owners, round_index)
    active = len(owners)
    while active:
        rows = np.empty((active, width), np.int64)
        weights = np.zeros((active, width), np.float32)
        still = 0
        for positions, starts, run in sources:
            batch = next(run, None)
            if batch is None:
                continue
            still += len(positions)
            rows[positions, : batch.size] = starts + batch
            rows[positions, batch.size :] = starts + batch[:1]
            weights[positions, : batch.size] = np.float32(1) / np.float32(batch.size)
        if not still:
            return
        active = still
        yield cohort.index[rows[:active]], weights[:active]


_Source = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Iterator[I64]]


def _sources(cohort: Cohort, training: Training, owners: Sequence[int], round_index: int) -> list[_Source]:
    """Who shares an order of rows: (positions, their first rows [n, 1], batches). A shuffled one is shared by
    nobody; as the rows lie, all owners with as many of them do the same.
    """
    chosen = np.asarray(owners, np.int64)
    starts, counts = cohort.offsets[chosen], cohort.counts[chosen]
    plan = training.plan
    found: list[_Source] = []
    if plan.order == "stored":
        for rows in np.unique(counts)[::-1].tolist():
            who = np.flatnonzero(counts == rows)
            found.append((who, starts[who][:, None], batches(rows, plan, _NO_CHANCE)))
        return found
    for place, owner in enumerate(chosen.tolist()):
        rng = owner_rng(training.seed, round_index, cohort.identities[owner])
        run = batches(int(counts[place]), plan, rng)
        found.append((np.array([place]), starts[place : place + 1, None], run))
    return found
