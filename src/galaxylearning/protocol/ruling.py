"""A round federated by another rule than the gate, where evaluators see every update.

The rules know rows of integers; here they meet data owners, terms and buffers. Updates are put in the order
of their senders' addresses first: where a rule breaks ties or shuffles, all evaluators do the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from galaxylearning.errors import JobRefused
from galaxylearning.learning import UpdateMatrix
from galaxylearning.learning.exact import Spread
from galaxylearning.learning.rules import Ruled, apply_rule, rule_named
from galaxylearning.learning.rules_coordinates import median
from galaxylearning.learning.rules_distances import MOST_COMPARED
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Terms

I64: TypeAlias = NDArray[np.int64]

NOT_SELECTED: Final = "the rule gives it no weight"
TOO_FEW: Final = "too few updates for the rule"
RULING_REASONS: Final = (NOT_SELECTED, TOO_FEW)
_SHUFFLE: Final = 0x521E


@dataclass(frozen=True, slots=True, eq=False)
class Ruling:
    """A rule's verdict on a round, in the order of the updates; ``ruled`` is None where they are too few.

    ``buffers`` (int64[B], divisor) is the coordinate-wise median change of the buffers of those that count,
    whatever the rule: distances between updates say nothing of them.
    """

    weights: I64
    ruled: Ruled | None
    buffers: tuple[I64, int] | None
    reason: str

    @property
    def is_step(self) -> bool:
        """Whether anything counts."""
        return bool(self.weights.any())


def faulty_among(plan: Plan, count: int) -> int:
    """How many of ``count`` updates may be bad: the plan's fraction, rounded down."""
    return math.floor(plan.faulty_fraction * count + 1e-9)


def check_rule(plan: Plan) -> None:
    """Check that a plan's rule can work at all.

    Raises:
        JobRefused: the largest cohort is too small for its own faulty fraction, or too large to be compared.
    """
    rule, most = rule_named(plan.rule), plan.maximum_owners
    needed = rule.least(faulty_among(plan, most))
    if needed > most:
        raise JobRefused(
            f"{plan.faulty_fraction:g} given; with it {plan.rule} needs {needed} updates, and "
            f"plan.maximum_owners is {most}. Allowed: a smaller fraction, another rule, more data owners",
            where="plan.faulty_fraction",
        )
    if rule.compares and most > MOST_COMPARED:
        raise JobRefused(
            f"{most} given; {plan.rule} compares every two updates, at most {MOST_COMPARED} allowed",
            where="plan.maximum_owners",
        )


def rule_round(
    terms: Terms, round_index: int, updates: UpdateMatrix, reference: I64 | None, *, spread: Spread
) -> Ruling:
    """Federate a round by the plan's rule; ``reference`` int64[P]: the hidden set's step."""
    plan, count = terms.plan, len(updates)
    faulty = faulty_among(plan, count)
    if count < rule_named(plan.rule).least(faulty):
        return Ruling(np.zeros(count, np.int64), None, None, TOO_FEW)
    order = np.array(sorted(range(count), key=lambda i: address_key(updates.owners[i])), np.int64)
    ruled = apply_rule(
        plan.rule,
        updates.parameters[order],
        faulty=faulty,
        rng=np.random.default_rng([terms.seed, round_index, _SHUFFLE]),
        reference=reference,
        max_weight=plan.max_weight,
        spread=spread,
    )
    weights = np.empty(count, np.int64)
    weights[order] = ruled.weights
    counted = updates.buffers[weights > 0]
    buffers = median(counted) if counted.size else None
    return Ruling(weights, ruled, buffers, NOT_SELECTED)
