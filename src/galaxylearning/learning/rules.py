"""The robust rules by name: how a round's updates become one step, and who has what share in it.

For evaluators that see every update (``sealed``). Every rule ends in integers over an integer divisor: the
coordinate-wise rules because they only sort and add, the others because they give each update an integer
weight. So all machines derive the same bytes. ``docs/robustness.md`` has the table and what it means for pay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.learning.exact import (
    IntRows,
    Spread,
    exact_products,
    exact_squares,
    exact_weighted_sum,
    one_by_one,
    require_rows,
)
from galaxylearning.learning.gate import gate
from galaxylearning.learning.quantise import MAX_WEIGHT
from galaxylearning.learning.rules_coordinates import mean_around_median, median, trimmed_mean
from galaxylearning.learning.rules_distances import (
    bucket_sums,
    bulyan_selection,
    clipped_shares,
    geometric_median_shares,
    krum_selection,
    mixed,
    nearest,
    squared_distances,
)
from galaxylearning.learning.vectors import F64, I64, exact_dot, require_integer, require_vector

BUCKET_SIZE: Final = 2
_LARGEST_DIVISOR: Final = 1 << 40


@dataclass(frozen=True, slots=True, eq=False)
class Ruled:
    """What a rule made of the updates: the step is ``total / divisor`` in quantised units.

    ``total`` int64[P]. ``weights`` int64[m] are 0 for an update that had no part in it, and deal the step's
    value out: equal ones for coordinate-wise rules. Where a rule weighs whole updates, ``total`` is their
    weighted sum, and the step is ``stretch`` times their weighted mean: not 1 where updates are scaled to a
    length (FLTrust) or clipped around zero. Where no weight is above 0 there is no step.
    """

    total: I64
    divisor: int
    weights: I64
    stretch: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A rule's input: ``m`` updates [m, P], how many may be faulty, and what some rules need besides."""

    rows: IntRows
    faulty: int
    reference: I64 | None
    rng: np.random.Generator
    max_weight: int
    spread: Spread


@dataclass(frozen=True, slots=True)
class Rule:
    """A robust rule: what it does, what it tolerates, and how many updates it needs.

    ``breakdown`` is the largest fraction of faulty updates that its source allows as m grows (None: as many
    as the hidden set's direction tells apart, more than half included); ``factor`` and ``extra``: it needs
    ``factor * faulty + extra`` updates. ``needs_reference``: the quantised step on the hidden set.
    ``compares``: it looks at every two updates, so that there is a largest cohort.
    """

    name: str
    apply: Callable[[Given], Ruled]
    breakdown: float | None
    factor: int
    extra: int
    source: str
    needs_reference: bool = False
    compares: bool = False

    def least(self, faulty: int) -> int:
        """How many updates it needs where ``faulty`` of them may be."""
        return self.factor * faulty + self.extra


def apply_rule(
    name: str,
    updates: IntRows,
    *,
    faulty: int,
    rng: np.random.Generator,
    reference: I64 | None = None,
    max_weight: int = 15,
    spread: Spread = one_by_one,
) -> Ruled:
    """Federate rows int16 or int32 [m, P] by the rule of that name.

    ``faulty`` is how many of them may be; ``reference`` int64[P] the quantised step on the hidden set, for
    the rules that need it. ``rng`` shuffles (bucketing). Equal updates are told apart by their order.

    Raises:
        ConfigRefused: no such rule; ``faulty`` or ``max_weight`` out of range.
        UpdateRefused: rows of another type or shape, fewer or more of them than the rule allows, or a
            reference that is missing or of another size.
    """
    rule = rule_named(name)
    rows = require_rows(updates, "updates")
    require_integer(faulty, "faulty", low=0, high=1 << 31)
    require_integer(max_weight, "max_weight", low=1, high=MAX_WEIGHT)
    if len(rows) < rule.least(faulty):
        raise UpdateRefused(
            f"must be at least {rule.least(faulty)} for {name} with {faulty} faulty ones, not {len(rows)}",
            where="updates",
        )
    if rule.needs_reference:
        if reference is None:
            raise UpdateRefused(f"must be given for {name}", where="reference")
        require_vector(reference, "reference", np.int64, size=rows.shape[1])
    return rule.apply(Given(rows, faulty, reference, rng, max_weight, spread))


def rule_named(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ConfigRefused: there is none; the message lists them.
    """
    if name not in RULES:
        raise ConfigRefused(f"{name!r:.60} given; allowed: {', '.join(RULES)}", where="rule")
    return RULES[name]


# ---- one function a rule


def _weighed(given: Given, weights: I64, divisor: int | None = None) -> Ruled:
    whole = max(1, int(weights.sum()))
    by = whole if divisor is None else divisor
    return Ruled(exact_weighted_sum(given.rows, weights, spread=given.spread), by, weights, whole / by)


def _selected(given: Given, chosen: npt.NDArray[np.bool_]) -> Ruled:
    return _weighed(given, chosen.astype(np.int64))


def _equal_shares(count: int, found: tuple[I64, int]) -> Ruled:
    total, divisor = found
    return Ruled(total, divisor, np.ones(count, np.int64))


def whole_shares(shares: F64, top: int = MAX_WEIGHT) -> tuple[I64, int]:
    """Integer weights int64[m] of at most ``top``, and a divisor, whose quotients are ``shares`` >= 0.

    The largest weight is about ``top``, so shares are right to one part in 2 ``top`` of the largest. A share
    above ``top`` itself is cut there.
    """
    largest = float(shares.max(initial=0.0))
    if largest <= 0.0:
        return np.zeros(len(shares), np.int64), 1
    divisor = max(1, min(_LARGEST_DIVISOR, math.floor(top / largest)))
    return np.minimum(np.rint(shares * divisor), top).astype(np.int64), divisor


def _gate(given: Given) -> Ruled:
    assert given.reference is not None  # noqa: S101  apply_rule has seen to it
    table = gate(given.rows, given.reference, max_weight=given.max_weight, spread=given.spread)
    return _weighed(given, table.weights)


def _mean(given: Given) -> Ruled:
    return _selected(given, np.ones(len(given.rows), np.bool_))


def _trimmed_mean(given: Given) -> Ruled:
    return _equal_shares(len(given.rows), trimmed_mean(given.rows, given.faulty))


def _median(given: Given) -> Ruled:
    return _equal_shares(len(given.rows), median(given.rows))


def _krum(given: Given) -> Ruled:
    apart = squared_distances(given.rows, spread=given.spread)
    return _selected(given, krum_selection(apart, given.faulty, 1))


def _multi_krum(given: Given) -> Ruled:
    apart = squared_distances(given.rows, spread=given.spread)
    return _selected(given, krum_selection(apart, given.faulty, len(given.rows) - given.faulty))


def _bulyan(given: Given) -> Ruled:
    chosen = bulyan_selection(squared_distances(given.rows, spread=given.spread), given.faulty)
    kept = int(chosen.sum())
    total, divisor = mean_around_median(given.rows[chosen], kept - 2 * given.faulty)
    return Ruled(total, divisor, chosen.astype(np.int64))


def _geometric_median(given: Given) -> Ruled:
    apart = squared_distances(given.rows, spread=given.spread)
    shares = geometric_median_shares(apart, exact_squares(given.rows, spread=given.spread))
    return _weighed(given, whole_shares(shares)[0])


def _centred_clipping(given: Given) -> Ruled:
    apart = squared_distances(given.rows, spread=given.spread)
    shares = clipped_shares(apart, exact_squares(given.rows, spread=given.spread))
    return _weighed(given, *whole_shares(shares))


def _mixed_trimmed_mean(given: Given) -> Ruled:
    count = len(given.rows)
    near = nearest(squared_distances(given.rows, spread=given.spread), count - given.faulty)
    total, divisor = trimmed_mean(mixed(given.rows, near), given.faulty)
    return _equal_shares(count, (total, divisor * (count - given.faulty)))


def _bucketed_geometric_median(given: Given) -> Ruled:
    order = given.rng.permutation(len(given.rows)).astype(np.int64)
    sums, buckets = bucket_sums(given.rows, order, BUCKET_SIZE)
    apart = squared_distances(sums, spread=given.spread)
    shares = geometric_median_shares(apart, exact_squares(sums, spread=given.spread))
    weights, _ = whole_shares(shares, MAX_WEIGHT // BUCKET_SIZE)
    # A bucket's weight is its members' together; one of a single member counts as much as one of two.
    sizes = np.bincount(buckets, minlength=len(sums))
    return _weighed(given, weights[buckets] * (BUCKET_SIZE // sizes[buckets]))


def _fltrust(given: Given) -> Ruled:
    step = given.reference
    assert step is not None  # noqa: S101  apply_rule has seen to it
    squares = exact_squares(given.rows, spread=given.spread)
    products = exact_products(given.rows, step[None], spread=given.spread)[:, 0]
    length = math.sqrt(exact_dot(step, step))
    norms = np.sqrt(squares.astype(np.float64))
    # Rounding must not make a product that is not positive count.
    positive = (products > 0) & (norms > 0)
    trust = np.zeros(len(norms))
    trust[positive] = products[positive].astype(np.float64) / (norms[positive] * length)
    shares = np.zeros(len(norms))
    if bool(positive.any()):
        shares[positive] = trust[positive] / np.sum(trust) * (length / norms[positive])
    return _weighed(given, *whole_shares(shares))


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            Rule("gate", _gate, None, 0, 1, "docs/robustness.md", needs_reference=True),
            Rule("mean", _mean, 0.0, 0, 1, "McMahan et al. 2017 (arXiv 1602.05629)"),
            Rule("trimmed-mean", _trimmed_mean, 0.5, 2, 1, "Yin et al. 2018 (arXiv 1803.01498)"),
            Rule("median", _median, 0.5, 2, 1, "Yin et al. 2018 (arXiv 1803.01498)"),
            Rule("krum", _krum, 0.5, 2, 3, "Blanchard et al. 2017 (NeurIPS)", compares=True),
            Rule("multi-krum", _multi_krum, 0.5, 2, 3, "Blanchard et al. 2017 (NeurIPS)", compares=True),
            Rule("bulyan", _bulyan, 0.25, 4, 3, "El Mhamdi et al. 2018 (arXiv 1802.07927)", compares=True),
            Rule(
                "geometric-median",
                _geometric_median,
                0.5,
                2,
                1,
                "Pillutla et al. 2022 (arXiv 1912.13445)",
                compares=True,
            ),
            Rule(
                "centred-clipping",
                _centred_clipping,
                0.1,
                2,
                1,
                "Karimireddy et al. 2021 (arXiv 2012.10333)",
                compares=True,
            ),
            Rule(
                "nnm+trimmed-mean",
                _mixed_trimmed_mean,
                0.5,
                2,
                1,
                "Allouah et al. 2023 (arXiv 2302.01772)",
                compares=True,
            ),
            Rule(
                "bucketing+geometric-median",
                _bucketed_geometric_median,
                0.25,
                4,
                1,
                "Karimireddy et al. 2022 (arXiv 2006.09365)",
                compares=True,
            ),
            Rule("fltrust", _fltrust, None, 0, 1, "Cao et al. 2021 (arXiv 2012.13995)", needs_reference=True),
        )
    }
)
"""Every rule that terms can name."""
