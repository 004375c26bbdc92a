"""All 2**n coalition models of a round: what each is worth on the hidden rows.

A coalition's model is linear in the updates of its members, and so is its first layer's product with the
rows: that is computed once per update and combined per coalition. Other graphs go one coalition at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from galaxylearning.engines.blocks import Budget, Report, run_blocks
from galaxylearning.engines.hidden_rows import (
    HiddenRows,
    StackedRows,
    Utility,
    chosen,
    coalition_name,
    require_few,
    require_utility,
)
from galaxylearning.engines.stack_nets import stack_net
from galaxylearning.engines.stacks import StackNet, StackWork
from galaxylearning.errors import ConfigRefused, DataRefused
from galaxylearning.graph.model import Model
from galaxylearning.learning.vectors import F32, F64, I64, require_integer, require_number, require_vector
from galaxylearning.protocol.hidden_set import Rows

CoalitionGame: TypeAlias = Literal["fixed-share", "re-averaging"]

CHUNK = 32
"""Coalitions that are computed together: enough to fill the products, few enough for a core's cache."""

TILE = 512
"""Rows that are looked at together."""

_SMALLEST_TILE = 16


def coefficients(masks: I64, weights: F64, game: CoalitionGame) -> F64:
    """How much each update counts in each coalition, f64[m, n], by bit masks int64[m] and weights f64[n]."""
    inside = (masks[:, None] >> np.arange(weights.size)) & 1
    counted: F64 = inside * weights
    if game == "re-averaging":
        total = counted.sum(axis=1, keepdims=True)
        np.divide(counted, total, out=counted, where=total > 0)
    return counted


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    """What a game is played over: ``start`` [P], ``updates`` [n, P], ``shares`` f64[n]."""

    start: F32 | F64
    updates: F32 | F64
    shares: F64
    game: CoalitionGame
    utility: Utility


class CoalitionEvaluator:
    """Gives the worth of every coalition of a round's updates, on hidden rows that stay in memory.

    ``loss_clip`` (0, 1e6] bounds each row's loss from above; ``buffers`` f32[B] are the round's (the
    model's initial ones unless given). ``budget_mib`` bounds what is allocated here besides the arguments.
    Results do not depend on ``threads``, nor beyond rounding on the budget; ``threads`` serve dense
    graphs, others go one coalition at a time. ``report`` is told how many coalitions are done.

    Raises:
        ConfigRefused: a clip, budget or number of threads out of range.
        DataRefused: no rows, or rows that the graph does not take.
    """

    def __init__(
        self,
        model: Model,
        rows: Rows,
        *,
        loss_clip: float,
        buffers: F32 | None = None,
        budget_mib: float = 256,
        threads: int = 1,
        report: Report | None = None,
    ) -> None:
        self._model, self._report = model, report
        self._budget = Budget(budget_mib, threads)
        self._buffers = model.initial()[1] if buffers is None else buffers
        self._net = stack_net(model, self._buffers)
        self._hidden = (
            HiddenRows(rows, loss_clip) if self._net is None else StackedRows(self._net, rows, loss_clip)
        )

    def worths(
        self,
        start: F32 | F64,
        updates: F32 | F64,
        *,
        shares: Sequence[float] | None = None,
        sizes: Sequence[int] | None = None,
        game: CoalitionGame = "fixed-share",
        utility: Utility = "loss",
    ) -> F64:
        """Worth of every coalition, f64[2**n] by bit mask: bit i stands for ``updates[i]``.

        ``start`` [P] and ``updates`` [n, P] are float32 or float64. With ``fixed-share`` the model of a
        coalition S is ``start + sum over S share_i u_i``; with ``re-averaging`` the shares are scaled to sum
        to 1 over S. Shares are 1/n each unless ``shares`` or ``sizes`` (numbers of rows) are given. The empty
        coalition has ``start``. Utility ``loss`` is minus the mean clipped loss in units of the loss per row,
        ``accuracy`` the part of the rows whose class is right; ``both`` gives the two as f64[2, 2**n].

        Raises:
            DataRefused: no update, a wrong type or size, a number that is not finite; a coalition whose
                utility is not finite, by name.
            ConfigRefused: more than 20 updates, bad shares, a game or utility of another name, an accuracy
                for a loss without classes, a budget that is too small (with the MiB needed).
        """
        if game not in get_args(CoalitionGame):
            raise ConfigRefused(f"must be one of {', '.join(get_args(CoalitionGame))}", where="game")
        require_utility(utility, self._model.graph.loss)
        first, stack = self._vectors(start, updates)
        round_ = _Round(first, stack, _shares(len(stack), shares, sizes, game), game, utility)
        if isinstance(self._hidden, StackedRows) and self._net is not None:
            found = self._stacked(self._net, self._hidden, round_)
        else:
            found = np.empty((2, 1 << len(stack)))
            self._one_by_one(np.arange(1 << len(stack)), found, round_, self._report)
        return chosen(found, utility)

    def _vectors(self, start: F32 | F64, updates: F32 | F64) -> tuple[F32 | F64, F32 | F64]:
        size = self._model.parameter_count
        first: F32 | F64
        if getattr(start, "dtype", None) == np.float64:
            first = require_vector(start, "start", np.float64, size=size, error=DataRefused)
        else:
            first = require_vector(start, "start", np.float32, size=size, error=DataRefused)
        if not isinstance(updates, np.ndarray) or updates.dtype not in (np.float32, np.float64):
            raise DataRefused("must be a numpy array of float32 or float64", where="updates")
        if updates.ndim != 2 or updates.shape[1] != size:
            raise DataRefused(f"must have shape [n, {size}], not {list(updates.shape)}", where="updates")
        require_few(len(updates), "updates")
        for i, update in enumerate(updates):
            if not bool(np.isfinite(update).all()):
                raise DataRefused("must be finite; it contains NaN or infinity", where=f"updates[{i}]")
        return first, updates

    # ---- one coalition at a time

    def _one_by_one(self, masks: I64, found: F64, round_: _Round, report: Report | None) -> None:
        """Fill ``found`` f64[2, 2**n] at ``masks``, by the model itself."""
        size = round_.start.size
        self._budget.require(20 * size + found.nbytes, "a coalition's model")
        point, scratch = np.empty(size), np.empty(size)
        for number, mask in enumerate(masks.tolist(), start=1):
            point[...] = round_.start
            counts = coefficients(np.array([mask]), round_.shares, round_.game)[0]
            for i in np.flatnonzero(counts).tolist():
                np.multiply(round_.updates[i], counts[i], out=scratch, dtype=np.float64)
                point += scratch
            with np.errstate(over="ignore"):
                params = point.astype(np.float32)
            found[:, mask] = self._hidden.utilities(
                self._model, params, self._buffers, round_.utility, coalition_name(mask)
            )
            if report is not None:
                report(number, masks.size)

    # ---- all at once

    def _stacked(self, net: StackNet, hidden: StackedRows, round_: _Round) -> F64:
        n = len(round_.updates)
        chunk, tile, workers = self._fit(net, n)
        with np.errstate(over="ignore"):
            stack = net.load(np.concatenate([round_.start[None], round_.updates], dtype=np.float32))
        totals, coalitions = np.zeros((2, 1 << n)), 1 << n
        blocks = [slice(at, min(at + chunk, coalitions)) for at in range(0, coalitions, chunk)]
        spaces = [net.work(chunk, tile) for _ in range(workers)]
        tiles = hidden.tiles(tile)
        for number, part in enumerate(tiles):
            with np.errstate(over="ignore", invalid="ignore"):
                shared = net.shared(stack, hidden.inputs[part])

            def work(block: slice, space: StackWork, part: slice = part, shared: F32 = shared) -> None:
                counts = coefficients(np.arange(block.start, block.stop), round_.shares, round_.game)
                factors = np.concatenate([np.ones((len(counts), 1)), counts], axis=1, dtype=np.float32)
                with np.errstate(over="ignore", invalid="ignore"):
                    outputs = space.mixed(stack, shared, factors, hidden.inputs[part])
                    hidden.add(outputs, part, round_.utility, totals[:, block])

            def done(block: slice, number: int = number) -> None:
                if self._report is not None:
                    self._report((number * coalitions + block.stop) // len(tiles), coalitions)

            run_blocks(blocks, work, spaces, stop=threading.Event(), done=done)
        found = hidden.finish(totals)
        # What is not finite here (0 * inf among the shared products) may be so in the model itself, or not.
        unsure = ~np.isfinite(np.atleast_2d(chosen(found, round_.utility))).all(axis=0)
        if unsure.any():
            self._one_by_one(np.flatnonzero(unsure), found, round_, None)
        return found

    def _fit(self, net: StackNet, n: int) -> tuple[int, int, int]:
        """Coalitions per chunk, rows per tile, threads.

        Raises:
            ConfigRefused: not even one coalition and a few rows fit.
        """
        chunk, tile = min(CHUNK, 1 << n), min(TILE, len(self._hidden.rows))
        smallest = min(_SMALLEST_TILE, tile)
        while not self._budget.holds(sum(self._bytes(net, n, chunk, tile))):
            if tile > smallest:
                tile = max(smallest, tile // 2)
            elif chunk > 1:
                chunk //= 2
            else:
                break
        fixed, each = self._bytes(net, n, chunk, tile)
        self._budget.require(fixed + each, f"evaluating the coalitions of {n} updates")
        return chunk, tile, self._budget.workers(fixed, each)

    def _bytes(self, net: StackNet, n: int, chunk: int, tile: int) -> tuple[int, int]:
        """Bytes held whatever the number of threads, and by each of them."""
        rows, columns = len(self._hidden.rows), self._hidden.rows.inputs[:1].size + 1
        vectors = 2 * (n + 1) * net.parameters * 4
        fixed = rows * columns * 4 + vectors + net.shared_bytes(n + 1, tile) + (1 << n) * 64
        return fixed, net.work_bytes(chunk, tile) + StackedRows.needed_bytes(net, chunk, tile)


def _shares(n: int, shares: Sequence[float] | None, sizes: Sequence[int] | None, game: CoalitionGame) -> F64:
    """The share of each update, f64[n]."""
    if shares is not None and sizes is not None:
        raise ConfigRefused("must not be given together with sizes", where="shares")
    field = "shares" if sizes is None else "sizes"
    given = shares if sizes is None else sizes
    if given is None:
        return np.full(n, 1.0 / n)
    if len(given) != n:
        raise ConfigRefused(f"must be {n}, one per update, not {len(given)}", where=field)
    if sizes is not None:
        counts = [require_integer(size, f"sizes[{i}]", low=1, high=1 << 53) for i, size in enumerate(sizes)]
        return np.array([count / sum(counts) for count in counts])
    # Re-averaging divides by the sum over a coalition, so that no share may be zero there.
    is_open = game == "re-averaging"
    return np.array(
        [
            require_number(share, f"shares[{i}]", low=0, high=1, low_open=is_open)
            for i, share in enumerate(given)
        ]
    )
