"""The same data under two names, found in what the names send.

An update is what everybody learns, plus what only this data says, plus the noise of the batches. The second
part is the same for both names and lasts over rounds; the third is independent between names and between
rounds. So products are taken between *different* rounds, where the noise cancels, and divided by each name's
own product with itself: two names of one data set give 1 whatever the noise, different data gives less (a
correlation corrected for attenuation, Spearman 1904). Hospitals with alike patients also correlate, but along
directions that many share; a kernel projection takes those out, and what is left must be an outlier among
all pairs. Last, the difference of two names of one data set is noise, which does not last over rounds; that
of alike data does (an analysis of variance, Fisher 1925).

All of it is made of products, which random projections keep on average: in masked mode an update is a few
+-1 projections, the same ones in every round, drawn when the last update is in (``twin_projections``).

Not found: disjoint halves of one data set (they are different data), and a name that adds a vector of its own
to what it sends, the same one in every round. Credentials are for those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import DataRefused
from galaxylearning.learning.vectors import (
    F32,
    F64,
    I16,
    I32,
    I64,
    require_integer,
    require_number,
    require_vector,
    stable_dot,
)

PlayerT = TypeVar("PlayerT", bound=Hashable)

MAX_PLAYERS = 2000
"""Time and memory grow with the square of the names: 2,000 of 4,096 numbers take about 700 MB."""
MIN_PLAYERS = 4
MAX_ABS = 1e100
IDLE_NORM = 0.1
"""An update shorter than this part of the round's median says nothing about data and is left out."""
STEADY = 0.02
"""A name whose own rounds agree less than this is noise: it is not judged."""
KERNEL_RIDGE = 0.03
SPREAD_FLOOR = 0.02
ERROR_FLOOR = 0.005
DIFFERENCE_ROUNDS = 3
"""A difference is judged over at least so many rounds that both names took part in."""
MINIMUM_ROUNDS = 5
PROJECTIONS = 16
PROJECTIONS_OF_SHORT_JOBS = 32
SHORT_JOB = 8
"""Rounds below which more projections are needed to tell names apart."""
FEWEST_PROJECTIONS = 12
"""Fewer than this link honest names too often."""
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


@dataclass(frozen=True, slots=True, eq=False)
class SentUpdates(Generic[PlayerT]):
    """One round: row ``i`` of ``updates`` [m, P] is what ``players[i]`` sent, in any unit, before weighting.

    Raises:
        DataRefused: other shapes or types, a name that occurs twice; numbers that are not finite or beyond
            1e100.
    """

    players: tuple[PlayerT, ...]
    updates: I16 | I32 | F32 | F64

    def __post_init__(self) -> None:
        rows = self.updates
        if not isinstance(rows, np.ndarray) or rows.dtype.char not in "hifd" or rows.ndim != 2:
            raise DataRefused("must be a matrix of int16, int32, float32 or float64", where="updates")
        if len(rows) != len(self.players) or len(set(self.players)) != len(self.players):
            raise DataRefused(f"must be {len(rows)}, one for every row, each once", where="players")
        if rows.dtype.kind == "f" and rows.size:
            largest = max(float(np.max(rows)), -float(np.min(rows)))
            if not largest <= MAX_ABS:
                raise DataRefused(f"must be finite and lie within ±{MAX_ABS:g}", where="updates")

    @classmethod
    def of(cls, sent: Mapping[PlayerT, F64], where: str, size: int | None) -> SentUpdates[PlayerT]:
        """From single updates f64[P]; ``where`` and ``size`` are those to name and to ask for.

        Raises:
            DataRefused: an update of a wrong type or size, not finite or beyond 1e100.
        """
        for player, update in sent.items():
            field = f"{where} update of {player}"
            size = require_vector(update, field, np.float64, size=size, error=DataRefused).size
            if float(np.max(np.abs(update), initial=0.0)) > MAX_ABS:
                raise DataRefused(f"must lie within ±{MAX_ABS:g}", where=field)
        return cls(tuple(sent), np.array(list(sent.values())).reshape(len(sent), size or 0))


TwinHistory: TypeAlias = Sequence[SentUpdates[PlayerT] | Mapping[PlayerT, F64]]
"""Per round, what every name sent."""


def twin_groups(
    history: TwinHistory[PlayerT],
    *,
    correlation: float = 0.9,
    standard_error: float = 0.15,
    shortfall: float = 2.0,
    distinct: float = 0.1,
    outlier: float = 5.0,
    difference: float = 5.0,
    minimum_rounds: int = MINIMUM_ROUNDS,
) -> tuple[frozenset[PlayerT], ...]:
    """Give the groups of names that train on the same data, in the order of their first appearance.

    ``history`` holds, per round, the update of every name that sent one (before any weighting), or the same
    projections of every update of all rounds. A pair is linked when all five thresholds of ``TwinEvidence``
    are met and its ``lasting_difference`` is at most ``difference``; groups are the connected names. Names in
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
    most = require_number(difference, "difference", low=0, high=1e6)
    rounds = _checked(history)
    evidence = twin_evidence(rounds, minimum_rounds=minimum_rounds)
    alike = (evidence.correlation >= least) & (evidence.shortfall <= short)
    alone = (evidence.distinct >= apart) & (evidence.outlier >= far)
    linked = np.tril(alike & alone & (evidence.standard_error <= sure), -1)
    return _components(evidence.players, linked, lambda i, j: lasting_difference(rounds, i, j) <= most)


def twin_evidence(
    history: TwinHistory[PlayerT], *, minimum_rounds: int = MINIMUM_ROUNDS
) -> TwinEvidence[PlayerT]:
    """Measure every pair of names; raises as ``twin_groups`` does. See ``TwinEvidence``."""
    needed = require_integer(minimum_rounds, "minimum_rounds", low=3, high=1_000_000)
    rounds = _checked(history)
    players = tuple(dict.fromkeys(player for sent in rounds for player in sent.players))
    if len(players) > MAX_PLAYERS:
        raise DataRefused(f"must name at most {MAX_PLAYERS} players, not {len(players)}", where="history")
    products = _CrossProducts(rounds, players)
    mean = products.mean()
    judged = np.flatnonzero((products.rounds >= needed) & (np.diag(mean) > STEADY))
    if judged.size < MIN_PLAYERS:
        none = np.zeros((0, 0))
        return TwinEvidence((), none, none, none, none, none)
    found = _normalised(mean[np.ix_(judged, judged)])
    error = products.jackknife_error(judged)
    apart = _without_shared_directions(found)
    return TwinEvidence(
        tuple(players[i] for i in judged),
        found,
        error,
        (1.0 - found) / (error + ERROR_FLOOR),
        apart,
        _robust_scores(apart),
    )


def _checked(history: TwinHistory[PlayerT]) -> list[SentUpdates[PlayerT]]:
    size: int | None = None
    rounds: list[SentUpdates[PlayerT]] = []
    for index, sent in enumerate(history):
        if isinstance(sent, Mapping):
            sent = SentUpdates.of(sent, f"history[{index}]", size)
        if not sent.players:
            continue
        if size is not None and sent.updates.shape[1] != size:
            raise DataRefused(f"must have {size} numbers an update", where=f"history[{index}]")
        size = sent.updates.shape[1]
        rounds.append(sent)
    return rounds


def _residuals(sent: SentUpdates[PlayerT]) -> tuple[I64, F64]:
    """Rows whose update says something, and their unit residuals f64[len(rows), P].

    Clip to the round's median norm, take out what lies along the mean update, scale to unit length. Taking
    out the whole direction and not only the mean keeps names that do nothing, or nothing of use, from
    looking alike merely because all of them lack it.
    """
    rest = sent.updates.astype(np.float64)
    norms = np.sqrt(np.sum(rest * rest, axis=1))
    median = float(np.sort(norms)[norms.size // 2])
    busy = np.flatnonzero(norms > IDLE_NORM * median)
    if busy.size < 2:
        return busy[:0], rest[:0]
    rest = rest[busy] * (np.minimum(1.0, median / norms[busy]) / median)[:, None]
    common = np.mean(rest, axis=0)
    along = rest @ common / max(stable_dot(common, common), TINY)
    rest -= along[:, None] * common
    lengths = np.sqrt(np.sum(rest * rest, axis=1))
    rest /= np.maximum(lengths, TINY)[:, None]
    return busy, rest


class _CrossProducts(Generic[PlayerT]):
    """Products of residuals over pairs of different rounds, f64[n, n], from matrix products.

    Residuals are made again whenever they are needed: what is held is one round and a few matrices f64[n, n].
    """

    def __init__(self, rounds: Sequence[SentUpdates[PlayerT]], players: Sequence[PlayerT]) -> None:
        number = {player: index for index, player in enumerate(players)}
        self._sent = rounds
        self._numbers = [np.array([number[p] for p in sent.players], np.int64) for sent in rounds]
        width = rounds[0].updates.shape[1] if rounds else 0
        self._sums = np.zeros((len(players), width))
        self._total = np.zeros((len(players), len(players)))
        self._present = np.zeros((len(rounds), len(players)))
        for index in range(len(rounds)):
            who, rest = self._round(index)
            self._sums[who] += rest
            self._present[index, who] = 1.0
            self._total[np.ix_(who, who)] -= rest @ rest.T
        self._total += self._sums @ self._sums.T
        # Rounds in which fewer than two names say anything are no rounds.
        self._counted = np.flatnonzero(self._present.any(axis=1))

    @property
    def rounds(self) -> F64:
        """In how many rounds each name has a residual, f64[n]."""
        counts: F64 = np.sum(self._present, axis=0)
        return counts

    def mean(self) -> F64:
        """The mean product over pairs of different rounds."""
        return self._total / _pairs(self._present)

    def jackknife_error(self, judged: I64) -> F64:
        """Standard errors of the normalised products of the ``judged`` names, leaving out each round."""
        kept = np.ix_(judged, judged)
        total, sums = self._total[kept], self._sums[judged]
        centre, spread = np.zeros(total.shape), np.zeros(total.shape)
        for done, index in enumerate(self._counted.tolist(), start=1):
            who, rest = self._round(index)
            here, rows = _both(judged, who)
            others = sums.copy()
            others[here] -= rest[rows]
            part = np.zeros(total.shape)
            part[here] = rest[rows] @ others.T
            left_out = total - part - part.T
            left_out /= _pairs(np.delete(self._present[:, judged], index, axis=0))
            replicate = _normalised(left_out)
            # Welford's running mean and sum of squares about it.
            away = replicate - centre
            centre += away / done
            spread += away * (replicate - centre)
        count = len(self._counted)
        error: F64 = np.sqrt(np.maximum(spread, 0.0) * (count - 1) / count)
        return error

    def _round(self, index: int) -> tuple[I64, F64]:
        rows, rest = _residuals(self._sent[index])
        return self._numbers[index][rows], rest


def _both(judged: I64, who: I64) -> tuple[I64, I64]:
    """Positions in ``judged`` and in ``who`` of the names that are in both."""
    _, here, rows = np.intersect1d(judged, who, assume_unique=True, return_indices=True)
    return here, rows


def _pairs(present: F64) -> F64:
    """Over how many pairs of different rounds the products of two names are, at least 1."""
    rounds = np.sum(present, axis=0)
    pairs: F64 = np.maximum(np.outer(rounds, rounds) - present.T @ present, 1.0)
    return pairs


def _normalised(products: F64) -> F64:
    """Correlations from products: exactly 1 on the diagonal."""
    root = np.sqrt(np.maximum(np.diag(products), STEADY / 4))
    found: F64 = products / np.outer(root, root)
    np.fill_diagonal(found, 1.0)
    return found


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


def lasting_difference(history: Sequence[SentUpdates[PlayerT]], one: PlayerT, other: PlayerT) -> float:
    """How much of the difference of two names lasts over rounds: variance between over variance within, F.

    Over the rounds in which both sent something, each update scaled to length 1. About 1 for one data set
    under two names, whatever the noise; larger for different data. Infinite in fewer than three such rounds.
    Source: Fisher 1925, analysis of variance.
    """
    apart = []
    for sent in history:
        if one in sent.players and other in sent.players:
            pair = [sent.players.index(one), sent.players.index(other)]
            rows = sent.updates[pair].astype(np.float64)
            lengths = np.sqrt(np.sum(rows * rows, axis=1))
            if lengths.all():
                rows /= lengths[:, None]
                apart.append(rows[0] - rows[1])
    count = len(apart)
    if count < DIFFERENCE_ROUNDS:
        return math.inf
    gaps = np.array(apart)
    mean = np.mean(gaps, axis=0)
    between = count * float(np.sum(mean * mean))
    within = float(np.sum((gaps - mean) ** 2)) / (count - 1)
    if within > 0.0:
        return between / within
    return 0.0 if between == 0.0 else math.inf


def twin_projections(budget: int, rounds: int) -> int:
    """How many +-1 projections of every round's updates to open for the search, once the last round is over.

    ``budget`` numbers of an update of each round may still be opened. 16 in a job of 8 ``rounds`` or more, 32
    in one of 5 to 7, or what the budget allows; 0, and no search, where that is below 12 or the job shorter.

    The *same* sign vectors are asked in all rounds: products between rounds need them. They must be drawn
    when the last round's updates are in, so that nobody adapts to them.
    """
    left = require_integer(budget, "budget", low=-(1 << 31), high=1 << 31)
    length = require_integer(rounds, "rounds", low=1, high=1_000_000)
    wanted = PROJECTIONS if length >= SHORT_JOB else PROJECTIONS_OF_SHORT_JOBS
    found = min(left, wanted)
    return found if found >= FEWEST_PROJECTIONS and length >= MINIMUM_ROUNDS else 0


def _components(
    players: tuple[PlayerT, ...],
    linked: npt.NDArray[np.bool_],
    is_confirmed: Callable[[PlayerT, PlayerT], bool],
) -> tuple[frozenset[PlayerT], ...]:
    """Connected names; a link between names that are connected already is not looked at again."""
    label = list(range(len(players)))
    for i, j in np.argwhere(linked).tolist():
        if label[i] != label[j] and is_confirmed(players[i], players[j]):
            keep, drop = sorted((label[i], label[j]))
            label = [keep if current == drop else current for current in label]
    groups: dict[int, set[PlayerT]] = {}
    for player, current in zip(players, label, strict=True):
        groups.setdefault(current, set()).add(player)
    return tuple(frozenset(group) for group in groups.values() if len(group) > 1)
