"""The same data under two names, found in what the names send.

An update is what everybody learns, plus what only this data says, plus the noise of the batches. The second
part is the same for both names and lasts over rounds; the third is independent between names and between
rounds. So products are taken between *different* rounds, where the noise cancels, and divided by each name's
own product with itself: two names of one data set give 1 whatever the noise, different data gives less (a
correlation corrected for attenuation, Spearman 1904). Hospitals with alike patients also correlate, but along
directions that many share; a kernel projection takes those out, and what is left must be an outlier among
all pairs.

Not found: disjoint halves of one data set (they are different data), names that are half the cohort or more,
and a name that hides its data under noise (which costs it value). Bonds and credentials are for those.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import F64, require_integer, require_number, require_vector

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


@dataclass(frozen=True, slots=True, eq=False)
class TwinEvidence(Generic[PlayerT]):
    """For every pair of judged ``players``: f64[n, n] each, symmetric.

    ``correlation`` is about 1 for one data set under two names; ``distinct`` is the correlation once shared
    directions are taken out, 0..1; ``outlier`` is ``distinct`` in robust standard deviations (median and MAD)
    from all pairs.
    """

    players: tuple[PlayerT, ...]
    correlation: F64
    distinct: F64
    outlier: F64


def twin_groups(
    history: Sequence[Mapping[PlayerT, F64]],
    *,
    correlation: float = 0.9,
    distinct: float = 0.1,
    outlier: float = 5.0,
    minimum_rounds: int = 5,
) -> tuple[frozenset[PlayerT], ...]:
    """Give the groups of names that train on the same data, in the order of their first appearance.

    ``history`` holds, per round, the f64[P] update of every name that sent one (before any weighting). A pair
    is linked when all three thresholds of ``TwinEvidence`` are met; groups are the connected names. Names in
    fewer than ``minimum_rounds`` rounds, and cohorts of fewer than 4 judged names, give no group.

    Raises:
        DataRefused: an update of a wrong type or size, not finite or beyond 1e100; more than 2000 names.
        ConfigRefused: a threshold out of range.
    """
    least = require_number(correlation, "correlation", low=0, high=1, low_open=True)
    apart = require_number(distinct, "distinct", low=0, high=1)
    far = require_number(outlier, "outlier", low=0, high=1e6, low_open=True)
    evidence = twin_evidence(history, minimum_rounds=minimum_rounds)
    linked = (evidence.correlation >= least) & (evidence.distinct >= apart) & (evidence.outlier >= far)
    return _components(evidence.players, linked)


def twin_evidence(
    history: Sequence[Mapping[PlayerT, F64]], *, minimum_rounds: int = 5
) -> TwinEvidence[PlayerT]:
    """Measure every pair of names; raises as ``twin_groups`` does. See ``TwinEvidence``."""
    needed = require_integer(minimum_rounds, "minimum_rounds", low=2, high=1_000_000)
    players = tuple(dict.fromkeys(player for sent in history for player in sent))
    if len(players) > MAX_PLAYERS:
        raise DataRefused(f"must name at most {MAX_PLAYERS} players, not {len(players)}", where="history")
    total = _Totals(len(players))
    for round_index, sent in enumerate(history):
        _add_round(total, round_index, {i: sent[p] for i, p in enumerate(players) if p in sent})
    cross, steady = total.cross_products(needed)
    judged = np.flatnonzero(steady)
    if judged.size < MIN_PLAYERS:
        none = np.zeros((0, 0))
        return TwinEvidence((), none, none, none)
    cross = cross[np.ix_(judged, judged)]
    root = np.sqrt(np.diag(cross))
    found = cross / np.outer(root, root)
    np.fill_diagonal(found, 1.0)
    apart = _without_shared_directions(found)
    return TwinEvidence(tuple(players[i] for i in judged), found, apart, _robust_scores(apart))


class _Totals:
    """What is kept of the rounds: sums of unit residuals, and their products within each round."""

    def __init__(self, players: int) -> None:
        self.sums: F64 | None = None
        self.same_round = np.zeros((players, players))
        self.together = np.zeros((players, players))

    def cross_products(self, needed: int) -> tuple[F64, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Mean products over pairs of different rounds f64[n, n], and which names agree with themselves."""
        if self.sums is None:
            return self.same_round, np.zeros(len(self.same_round), np.bool_)
        rounds = np.diag(self.together)
        pairs = np.outer(rounds, rounds) - self.together
        cross = (_products(self.sums, self.sums) - self.same_round) / np.maximum(pairs, 1.0)
        return cross, (rounds >= needed) & (np.diag(cross) > STEADY)


def _add_round(total: _Totals, round_index: int, sent: Mapping[int, F64]) -> None:
    """Clip to the round's median norm, subtract the mean, scale to unit length, add up."""
    size = None if total.sums is None else total.sums.shape[1]
    vectors: dict[int, F64] = {}
    for player, update in sent.items():
        field = f"history[{round_index}] update {player}"
        vectors[player] = require_vector(update, field, np.float64, size=size, error=DataRefused)
        size = vectors[player].size
        if float(np.max(np.abs(vectors[player]), initial=0.0)) > MAX_ABS:
            raise DataRefused(f"must lie within ±{MAX_ABS:g}", where=field)
    norms = {player: math.sqrt(float(np.sum(vector * vector))) for player, vector in vectors.items()}
    median = sorted(norms.values())[len(norms) // 2] if norms else 0.0
    busy = [player for player, norm in norms.items() if norm > IDLE_NORM * median]
    if len(busy) < 2:
        return
    residuals = np.array([vectors[player] * min(1.0, median / norms[player]) for player in busy])
    residuals -= np.mean(residuals, axis=0)
    lengths = np.sqrt(np.sum(residuals * residuals, axis=1))
    residuals /= np.maximum(lengths, np.finfo(np.float64).tiny)[:, None]
    if total.sums is None:
        total.sums = np.zeros((len(total.same_round), residuals.shape[1]))
    total.sums[busy] += residuals
    cells = np.ix_(busy, busy)
    total.same_round[cells] += _products(residuals, residuals)
    total.together[cells] += 1.0


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
