"""The same data under two names, found in what the names send.

An update is what everybody learns, plus what only this data says, plus the noise of the batches. The second
part is the same for both names and lasts over rounds; the third is independent between names and between
rounds. So products are taken between *different* rounds, where the noise cancels, and divided by each name's
own product with itself: two names of one data set give 1 whatever the noise, different data gives less (a
correlation corrected for attenuation, Spearman 1904). Hospitals with alike patients also correlate, but along
directions that many share; a kernel projection takes those out, and what is left must be an outlier among
all pairs.

Not found: disjoint halves of one data set (they are different data), and a name that hides its data under
noise (which costs it value). Bonds and credentials are for those.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import (
    F64,
    I64,
    require_integer,
    require_number,
    require_vector,
    stable_dot,
)

PlayerT = TypeVar("PlayerT", bound=Hashable)

MAX_PLAYERS = 2000
MIN_PLAYERS = 4
MAX_ABS = 1e100
IDLE_NORM = 0.1
"""An update shorter than this part of the round's median says nothing about data and is left out."""
STEADY = 0.02
"""A name whose own rounds agree less than this is noise: it is not judged."""
KERNEL_RIDGE = 0.03
SPREAD_FLOOR = 0.02
ERROR_FLOOR = 0.005
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class TwinEvidence(Generic[PlayerT]):
    """For every pair of judged ``players``: f64[n, n] each, symmetric.

    ``correlation`` is about 1 for one data set under two names, with its ``standard_error`` (jackknife over
    rounds); ``shortfall`` is what it lacks of 1 in standard errors; ``distinct`` is the correlation once
    shared directions are taken out, 0..1; ``outlier`` is ``distinct`` in robust standard deviations (median
    and MAD) from all pairs.
    """

    players: tuple[PlayerT, ...]
    correlation: F64
    standard_error: F64
    shortfall: F64
    distinct: F64
    outlier: F64


def twin_groups(
    history: Sequence[Mapping[PlayerT, F64]],
    *,
    correlation: float = 0.9,
    standard_error: float = 0.15,
    shortfall: float = 2.0,
    distinct: float = 0.1,
    outlier: float = 5.0,
    minimum_rounds: int = 5,
) -> tuple[frozenset[PlayerT], ...]:
    """Give the groups of names that train on the same data, in the order of their first appearance.

    ``history`` holds, per round, the f64[P] update of every name that sent one (before any weighting). A pair
    is linked when all five thresholds of ``TwinEvidence`` are met; groups are the connected names. Names in
    fewer than ``minimum_rounds`` rounds, and cohorts of fewer than 4 judged names, give no group.

    Raises:
        DataRefused: an update of a wrong type or size, not finite or beyond 1e100; more than 2000 names.
        ConfigRefused: a threshold out of range.
    """
    least = require_number(correlation, "correlation", low=0, high=1, low_open=True)
    sure = require_number(standard_error, "standard_error", low=0, high=1)
    short = require_number(shortfall, "shortfall", low=0, high=1e6)
    apart = require_number(distinct, "distinct", low=0, high=1)
    far = require_number(outlier, "outlier", low=0, high=1e6, low_open=True)
    evidence = twin_evidence(history, minimum_rounds=minimum_rounds)
    alike = (evidence.correlation >= least) & (evidence.shortfall <= short)
    alone = (evidence.distinct >= apart) & (evidence.outlier >= far)
    return _components(evidence.players, alike & alone & (evidence.standard_error <= sure))


def twin_evidence(
    history: Sequence[Mapping[PlayerT, F64]], *, minimum_rounds: int = 5
) -> TwinEvidence[PlayerT]:
    """Measure every pair of names; raises as ``twin_groups`` does. See ``TwinEvidence``."""
    needed = require_integer(minimum_rounds, "minimum_rounds", low=3, high=1_000_000)
    players = tuple(dict.fromkeys(player for sent in history for player in sent))
    if len(players) > MAX_PLAYERS:
        raise DataRefused(f"must name at most {MAX_PLAYERS} players, not {len(players)}", where="history")
    products = _cross_products(_residual_rounds(history, players), len(players))
    judged = np.flatnonzero((products.rounds >= needed) & (np.diag(products.mean()) > STEADY))
    if judged.size < MIN_PLAYERS:
        none = np.zeros((0, 0))
        return TwinEvidence((), none, none, none, none, none)
    found = _normalised(products.mean()[np.ix_(judged, judged)])
    replicates = [_normalised(mean[np.ix_(judged, judged)]) for mean in products.leave_one_out()]
    spread = np.sum((np.array(replicates) - np.mean(replicates, axis=0)) ** 2, axis=0)
    error = np.sqrt(spread * (len(replicates) - 1) / len(replicates))
    apart = _without_shared_directions(found)
    return TwinEvidence(
        tuple(players[i] for i in judged),
        found,
        error,
        (1.0 - found) / (error + ERROR_FLOOR),
        apart,
        _robust_scores(apart),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Residuals:
    """One round: the names whose update says something, and their unit residuals f64[len(busy), P]."""

    busy: I64
    residuals: F64


def _residual_rounds(
    history: Sequence[Mapping[PlayerT, F64]], players: tuple[PlayerT, ...]
) -> list[_Residuals]:
    number = {player: index for index, player in enumerate(players)}
    size: int | None = None
    rounds = []
    for round_index, sent in enumerate(history):
        vectors: dict[int, F64] = {}
        for player, update in sent.items():
            field = f"history[{round_index}] update of {player}"
            vector = require_vector(update, field, np.float64, size=size, error=DataRefused)
            if float(np.max(np.abs(vector), initial=0.0)) > MAX_ABS:
                raise DataRefused(f"must lie within ±{MAX_ABS:g}", where=field)
            vectors[number[player]], size = vector, vector.size
        found = _residuals(vectors)
        if found is not None:
            rounds.append(found)
    return rounds


def _residuals(vectors: dict[int, F64]) -> _Residuals | None:
    """Clip to the round's median norm, take out what lies along the mean update, scale to unit length.

    Taking out the whole direction and not only the mean keeps names that do nothing, or nothing of use, from
    looking alike merely because all of them lack it.
    """
    norms = {player: math.sqrt(stable_dot(vector, vector)) for player, vector in vectors.items()}
    median = sorted(norms.values())[len(norms) // 2] if norms else 0.0
    busy = sorted(player for player, norm in norms.items() if norm > IDLE_NORM * median)
    if len(busy) < 2:
        return None
    clipped = np.array([vectors[player] * (min(1.0, median / norms[player]) / median) for player in busy])
    common = np.mean(clipped, axis=0)
    along = np.sum(clipped * common, axis=1) / max(stable_dot(common, common), TINY)
    rest = clipped - along[:, None] * common
    lengths = np.sqrt(np.sum(rest * rest, axis=1))
    return _Residuals(np.array(busy, np.int64), rest / np.maximum(lengths, TINY)[:, None])


@dataclass(frozen=True, slots=True, eq=False)
class _CrossProducts:
    """Sums of residual products over pairs of different rounds f64[n, n], whole and per left-out round."""

    total: F64
    present: F64
    """f64[rounds, n], 1 where the name has a residual."""
    involving: list[F64]
    """Per round, the part of ``total`` that involves it."""

    @property
    def rounds(self) -> F64:
        counts: F64 = np.sum(self.present, axis=0)
        return counts

    def mean(self) -> F64:
        return self._divided(self.total, self.present)

    def leave_one_out(self) -> Iterator[F64]:
        for index, part in enumerate(self.involving):
            yield self._divided(self.total - part, np.delete(self.present, index, axis=0))

    @staticmethod
    def _divided(total: F64, present: F64) -> F64:
        rounds, together = np.sum(present, axis=0), _products(present.T, present.T)
        return total / np.maximum(np.outer(rounds, rounds) - together, 1.0)


def _cross_products(rounds: list[_Residuals], players: int) -> _CrossProducts:
    present = np.zeros((len(rounds), players))
    if not rounds:
        return _CrossProducts(np.zeros((players, players)), present, [])
    sums = np.zeros((players, rounds[0].residuals.shape[1]))
    for index, one in enumerate(rounds):
        sums[one.busy] += one.residuals
        present[index, one.busy] = 1.0
    total, involving = _products(sums, sums), []
    for one in rounds:
        with_all, with_itself = np.zeros((players, players)), np.zeros((players, players))
        with_all[one.busy] = _products(one.residuals, sums)
        with_itself[np.ix_(one.busy, one.busy)] = _products(one.residuals, one.residuals)
        involving.append(with_all + with_all.T - 2.0 * with_itself)
        total = total - with_itself
    return _CrossProducts(total, present, involving)


def _normalised(products: F64) -> F64:
    """Correlations from products: exactly 1 on the diagonal."""
    root = np.sqrt(np.maximum(np.diag(products), STEADY / 4))
    found: F64 = products / np.outer(root, root)
    np.fill_diagonal(found, 1.0)
    return found


def _products(left: F64, right: F64) -> F64:
    """All dot products of rows, f64[n, m], without BLAS."""
    return np.array([np.sum(row * right, axis=1) for row in left])


def _without_shared_directions(correlation: F64) -> F64:
    """Correlations after the ridge projection ``K (K + ridge)^-1`` of the kernel ``K``, clipped at 0 below.

    The projection brings every direction that the names span to about the same length, so names that merely
    lean the same way come apart; two names that span only one direction together cannot.
    """
    lengths, directions = np.linalg.eigh((correlation + correlation.T) / 2)
    kept = np.maximum(lengths, 0.0)
    projection = (directions * (kept / (kept + KERNEL_RIDGE))) @ directions.T
    root = np.sqrt(np.maximum(np.diag(projection), 1e-9))
    result: F64 = np.clip(projection / np.outer(root, root), 0.0, 1.0)
    return result


def _robust_scores(values: F64) -> F64:
    """Distance of every entry from the median of all pairs, in units of their scaled MAD."""
    pairs = values[np.triu_indices(len(values), 1)]
    middle = float(np.median(pairs))
    spread = 1.4826 * float(np.median(np.abs(pairs - middle)))
    return (values - middle) / max(spread, SPREAD_FLOOR)


def _components(
    players: tuple[PlayerT, ...], linked: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
) -> tuple[frozenset[PlayerT], ...]:
    label = list(range(len(players)))
    for i in range(len(players)):
        for j in range(i):
            if linked[i, j] and label[i] != label[j]:
                keep, drop = sorted((label[i], label[j]))
                label = [keep if current == drop else current for current in label]
    groups: dict[int, set[PlayerT]] = {}
    for player, current in zip(players, label, strict=True):
        groups.setdefault(current, set()).add(player)
    return tuple(frozenset(group) for group in groups.values() if len(group) > 1)
