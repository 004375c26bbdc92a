"""Exact retraining values: what every coalition of data owners would have reached alone.

Coalitions differ in their weights but not in the batches they see, so the models of many coalitions train as
one stack. Other graphs are trained one coalition after another, by any engine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from galaxylearning.engines.blocks import Budget, Report, run_blocks
from galaxylearning.engines.cohort import Cohort, owner_rng
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.engines.hidden_rows import (
    HiddenRows,
    StackedRows,
    Utility,
    chosen,
    coalition_name,
    require_few,
    require_pairs,
    require_utility,
)
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.stack_nets import stack_net
from galaxylearning.engines.stack_steps import StackSteps
from galaxylearning.engines.stacks import Array, Stack, StackNet, StackWork
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.graph.model import Model
from galaxylearning.learning.local import batches
from galaxylearning.learning.plan import MAX_STEPS
from galaxylearning.learning.vectors import F32, F64, I64, require_integer
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.units import round_name

Weighting: TypeAlias = Literal["rows", "equal"]

MAX_ROUNDS = 100_000

BLOCK = 128
"""Coalitions that are trained as one stack, at most."""

BLOCK_PARAMETERS = 320_000
"""About how many parameters a stack has, so that it stays in cache; at least ``SMALLEST_BLOCK`` models."""

SMALLEST_BLOCK = 8

TILE = 128
"""Hidden rows that a stack is measured on at a time."""


def retraining_worths(
    model: Model,
    cohort: Cohort,
    training: Training,
    rows: Rows,
    *,
    rounds: int,
    loss_clip: float,
    weights: Weighting = "rows",
    utility: Utility = "loss",
    budget_mib: float = 256,
    threads: int = 1,
    engine: Engine | None = None,
    report: Report | None = None,
) -> F64:
    """Utility of the model that every coalition trains alone, f64[2**n] by bit mask; bit i is owner i.

    Federated averaging of the coalition's owners for ``rounds`` rounds from the initial model, weighted by
    their numbers of ``rows`` or ``equal``; the empty coalition keeps the initial model. Utilities are those
    of ``CoalitionEvaluator.worths`` on the hidden ``rows``, with the same ``loss_clip``; ``both`` gives
    f64[2, 2**n]. Every owner sees the same batches in every coalition (``owner_rng``). Dense graphs
    train in stacks, on ``threads`` threads; any other graph, or any at all when an ``engine`` of this cohort
    is given, one coalition at a time. ``report`` is told how many coalitions are done.

    Raises:
        ConfigRefused: more than 20 owners, rounds outside 1..100,000, a setting of another name or out of
            range, a budget that is too small (with the MiB needed).
        DataRefused: rows that the graph does not take; training that diverges or a utility that is not
            finite, by coalition, round and owner.
    """
    require_few(len(cohort), "owners")
    require_integer(rounds, "rounds", low=1, high=MAX_ROUNDS)
    if weights not in get_args(Weighting):
        raise ConfigRefused(f"must be one of {', '.join(get_args(Weighting))}", where="weights")
    require_utility(utility, model.graph.loss)
    require_pairs(cohort.pool)
    counts = cohort.counts.astype(np.float64) if weights == "rows" else np.ones(len(cohort))
    _require_steps(cohort, training)
    budget = Budget(budget_mib, threads)
    net = stack_net(model, model.initial()[1]) if engine is None else None
    if net is None:
        hidden = HiddenRows(rows, loss_clip)
        one = engine or ReferenceEngine(model, cohort, training)
        found = _one_by_one(model, one, hidden, counts, rounds, utility, budget, report)
    else:
        stacked = _Stacked(net, model, cohort, training, StackedRows(net, rows, loss_clip), counts, rounds)
        found = stacked.run(utility, budget, report)
    return chosen(found, utility)


def _require_steps(cohort: Cohort, training: Training) -> None:
    plan = training.plan
    most = int(cohort.counts.max())
    if plan.epochs is not None and plan.epochs * -(-most // plan.batch_size) > MAX_STEPS:
        raise ConfigRefused(f"must give at most {MAX_STEPS} steps over {most} rows", where="epochs")


# ---- one coalition at a time


def _one_by_one(
    model: Model,
    engine: Engine,
    hidden: HiddenRows,
    counts: F64,
    rounds: int,
    utility: Utility,
    budget: Budget,
    report: Report | None,
) -> F64:
    n, total = counts.size, 1 << counts.size
    params, buffers = model.initial()
    start = np.concatenate([params, buffers])
    budget.require((4 * n + 40) * start.size + 16 * total, f"retraining the coalitions of {n} data owners")
    found, first = np.empty((2, total)), np.empty((n, start.size), np.float32)
    # Every coalition begins at the same model, so the owners' first updates are the same in all of them.
    for owner, change in _changes(engine, start, params.size, np.arange(n), 0, ""):
        first[owner] = change
    step = np.empty(start.size)
    for mask in range(total):
        name = coalition_name(mask)
        members = np.array([i for i in range(n) if mask >> i & 1], np.int64)
        shares = counts / max(1.0, counts[members].sum())
        state = start
        for round_index in range(rounds if mask else 0):
            step[:] = 0.0
            if round_index == 0:
                changes: Iterator[tuple[int, F32]] = ((i, first[i]) for i in members.tolist())
            else:
                changes = _changes(engine, state, params.size, members, round_index, f"{name}, ")
            for owner, change in changes:
                step += shares[owner] * change.astype(np.float64)
            state = (state + step).astype(np.float32)
        found[:, mask] = hidden.utilities(model, state[: params.size], state[params.size :], utility, name)
        if report is not None:
            report(mask + 1, total)
    return found


def _changes(
    engine: Engine, state: F32, parameters: int, members: I64, round_index: int, name: str
) -> Iterator[tuple[int, F32]]:
    """Every member's change of parameters and buffers f32[P + B] in one round.

    Raises:
        DataRefused: an owner's training failed.
    """
    params, buffers = state[:parameters], state[parameters:]
    for trained in engine.train(params, buffers, members, round_index):
        for owner, reason in trained.failures.items():
            raise DataRefused(reason, where=_place(name, round_index, owner))
        for row, owner in enumerate(trained.owners.tolist()):
            yield owner, np.concatenate([trained.updates[row], trained.buffers[row] - buffers])


def _place(name: str, round_index: int, owner: int) -> str:
    return f"{name}{round_name(round_index)}, owner {owner}"


# ---- in stacks


@dataclass(frozen=True, slots=True, eq=False)
class _Space:
    """What one thread needs: the block's models, their next, those in training, and a gradient."""

    state: F32
    following: F32
    current: F32
    gradient: F32
    steps: StackSteps
    work: StackWork


class _Stacked:
    """Retraining of dense graphs, many coalitions at a time."""

    def __init__(
        self,
        net: StackNet,
        model: Model,
        cohort: Cohort,
        training: Training,
        hidden: StackedRows,
        counts: F64,
        rounds: int,
    ) -> None:
        self._net, self._cohort, self._training, self._hidden = net, cohort, training, hidden
        self._counts, self._rounds = counts, rounds
        self._batch = min(training.plan.batch_size, int(cohort.counts.max()))
        self._tile = min(max(TILE, self._batch), len(hidden.inputs))
        self._initial, self._stop = model.initial()[0], threading.Event()

    def run(self, utility: Utility, budget: Budget, report: Report | None) -> F64:
        n, net = self._counts.size, self._net
        total = 1 << n
        models, workers = self._fit(budget)
        pool = net.rows(self._cohort.pool.inputs), net.targets(self._cohort.pool.labels)
        totals = np.zeros((2, total))
        spaces = [self._space(models) for _ in range(workers)]
        start = net.load(self._initial[None])
        self._measure(start, spaces[0], utility, totals[:, :1])
        # Every coalition begins at the same model, so its owners' first models are the same in all of them.
        first = net.load(np.repeat(self._initial[None], n, axis=0))
        for owner in range(n):
            one = net.stack_over(spaces[0].current, 1)
            one.read(start, np.zeros(1, np.int64))
            self._train(one, owner, 0, pool, spaces[0])
            if not bool(np.isfinite(one.flat).all()):
                raise DataRefused("training diverged", where=_place("", 0, owner))
            for part, trained in zip(first.parts, one.parts, strict=True):
                part[owner] = trained[0]
        finished = 1

        def block(masks: I64, space: _Space) -> None:
            self._block(masks, first, pool, space)
            self._measure(
                net.stack_over(space.state, masks.size), space, utility, totals[:, masks[0] : masks[-1] + 1]
            )

        def done(masks: I64) -> None:
            nonlocal finished
            finished += masks.size
            if report is not None:
                report(finished, total)

        run_blocks(self._blocks(models), block, spaces, stop=self._stop, done=done)
        found = self._hidden.finish(totals)
        wrong = ~np.isfinite(np.atleast_2d(chosen(found, utility))).all(axis=0)
        if wrong.any():
            name = coalition_name(int(np.argmax(wrong)))
            raise DataRefused("the model's loss or outputs are not finite", where=f"utility of {name}")
        return found

    def _blocks(self, models: int) -> list[I64]:
        """Bit masks of the coalitions with members, in blocks; those with most members begin."""
        masks = np.arange(1, 1 << self._counts.size)
        blocks = [masks[at : at + models] for at in range(0, masks.size, models)]
        return sorted(blocks, key=lambda block: -int(np.bitwise_count(block).sum()))

    def _block(self, masks: I64, first: Stack, pool: tuple[F32, Array], space: _Space) -> None:
        """Leave the final models of some coalitions in ``space.state``."""
        models, net = masks.size, self._net
        inside = (masks[:, None] >> np.arange(self._counts.size)) & 1 == 1
        shares = inside * self._counts
        shares = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
        state, following = net.stack_over(space.state, models), net.stack_over(space.following, models)
        state.mix(shares, first)
        for round_index in range(1, self._rounds):
            following.flat[:] = 0.0
            for owner in range(self._counts.size):
                members = np.flatnonzero(inside[:, owner])
                if not members.size:
                    continue
                current = net.stack_over(space.current, members.size)
                current.read(state, members)
                self._train(current, owner, round_index, pool, space)
                self._add(following, current, members, shares[members, owner], masks, (round_index, owner))
            state.flat[:] = following.flat

    def _add(
        self, total: Stack, trained: Stack, members: I64, shares: F32, masks: I64, when: tuple[int, int]
    ) -> None:
        """Add the shares of what one owner trained to the members' next models.

        Raises:
            DataRefused: a trained model is not finite.
        """
        for part, piece in zip(total.parts, trained.parts, strict=True):
            flat = piece.reshape(len(piece), -1)
            flat *= shares[:, None]
            fine = np.isfinite(flat).all(axis=1)
            if not fine.all():
                name = coalition_name(int(masks[members[np.argmin(fine)]]))
                raise DataRefused("training diverged", where=_place(f"{name}, ", *when))
            part[members] += piece

    def _train(
        self, stack: Stack, owner: int, round_index: int, pool: tuple[F32, Array], space: _Space
    ) -> None:
        """One owner's local training, from every model of the stack."""
        cohort, plan = self._cohort, self._training.plan
        mine = cohort.index[cohort.offsets[owner] : cohort.offsets[owner + 1]]
        gradient = self._net.stack_over(space.gradient, len(stack))
        rng = owner_rng(self._training.seed, round_index, cohort.identities[owner])
        space.steps.begin(stack.flat)
        with np.errstate(over="ignore", invalid="ignore"):
            for step, batch in enumerate(batches(mine.size, plan, rng), start=1):
                if self._stop.is_set():
                    return
                chosen_rows = mine[batch]
                space.work.gradient(
                    stack, pool[0][chosen_rows], pool[1][chosen_rows], space.steps.scale, gradient
                )
                space.steps.apply(stack.flat, gradient.flat, step)

    def _measure(self, stack: Stack, space: _Space, utility: Utility, totals: F64) -> None:
        """Add the scores of every model on all hidden rows to ``totals`` f64[2, M]."""
        with np.errstate(over="ignore", invalid="ignore"):
            for tile in self._hidden.tiles(self._tile):
                self._hidden.add(space.work.forward(stack, self._hidden.inputs[tile]), tile, utility, totals)

    def _space(self, models: int) -> _Space:
        size = models * self._net.parameters
        state, following, current, gradient = (np.empty(size, np.float32) for _ in range(4))
        rows = max(self._batch, self._tile)
        return _Space(
            state,
            following,
            current,
            gradient,
            StackSteps(self._training.plan, size),
            self._net.work(models, rows),
        )

    def _fit(self, budget: Budget) -> tuple[int, int]:
        """Coalitions per block, and threads.

        Raises:
            ConfigRefused: not even one coalition fits.
        """
        n, net = self._counts.size, self._net
        width = self._hidden.rows.inputs[:1].size + 1
        rows = (len(self._cohort.pool) * (width + net.classes) + len(self._hidden.inputs) * width) * 4
        fixed = rows + (2 * n + 2) * net.parameters * 4 + (1 << n) * 64
        models = min(BLOCK, max(SMALLEST_BLOCK, BLOCK_PARAMETERS // net.parameters), (1 << n) - 1)
        while models > 1 and not budget.holds(fixed + self._bytes(models)):
            models = (models + 1) // 2
        budget.require(fixed + self._bytes(models), f"retraining the coalitions of {n} data owners")
        return models, budget.workers(fixed, self._bytes(models))

    def _bytes(self, models: int) -> int:
        """Bytes that one thread holds."""
        arrays = 4 + StackSteps.arrays(self._training.plan)
        rows = max(self._batch, self._tile)
        scores = StackedRows.needed_bytes(self._net, models, self._tile)
        # Two more for the pieces that are gathered and added at the end of an owner's training.
        vectors = (arrays + 2) * models * self._net.parameters * 4
        return vectors + self._net.work_bytes(models, rows) + scores
