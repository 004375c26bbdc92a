"""What is compared: the masked gate and four rules that see every update, all on the same integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from galaxylearning.learning import Standings, aggregate, gate_scalars, projected_squares
from galaxylearning.learning.exact import IntRows, exact_products
from galaxylearning.learning.rules import apply_rule
from galaxylearning.learning.vectors import F64, I64, exact_dot
from galaxylearning.secagg.questions import Signs
from galaxylearning.secagg.weights import shared_weights

PROJECTIONS = 16
MINIMUM_SUM = 3


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a defence may use: integer updates [m, P], the hidden set's step int64[P], how many may be bad.

    ``reference`` is the gate's step, ``as_owner`` one that is trained no longer than a data owner's.
    ``standings`` are of the rounds before; where the round is only played through, ``is_real`` is false.
    """

    rows: IntRows
    reference: I64
    as_owner: I64
    faulty: int
    rng: np.random.Generator
    standings: Standings = field(default_factory=Standings)
    is_real: bool = True


Defence = Callable[[Seen], F64]
"""The mean step f64[P] in quantised units; zeros where nothing is accepted."""


def by_rule(name: str) -> Defence:
    """A rule of the package that sees every update."""

    def federate(seen: Seen) -> F64:
        found = apply_rule(name, seen.rows, faulty=seen.faulty, rng=seen.rng, reference=seen.as_owner)
        return found.total / max(1, found.divisor)

    return federate


def masked_gate(seen: Seen) -> F64:
    """The gate from what a masked job opens: a product with the hidden set's step, and some projections."""
    rows, step = seen.rows, seen.reference
    signs = Signs(PROJECTIONS, step.size, seen.rng.bytes(32))
    table = gate_scalars(
        exact_products(rows, step[None])[:, 0],
        projected_squares(signs.products(rows)),
        reference_square=exact_dot(step, step),
        copies=PROJECTIONS,
    )
    names = [str(place) for place in range(len(rows))]
    weights = shared_weights(seen.standings.lowered(names, table.cosines, table.weights), MINIMUM_SUM)
    if seen.is_real:
        seen.standings.add(names, table.cosines)
    if not weights.any():
        return np.zeros(step.size)
    total, weight = aggregate(rows, weights)
    return total / weight


def hidden_set_alone(seen: Seen) -> F64:
    """No federation: what the hidden set's gating half can teach by itself."""
    return seen.as_owner.astype(np.float64)


DEFENCES: dict[str, Defence] = {
    "gate (masked)": masked_gate,
    "fltrust": by_rule("fltrust"),
    "multi-krum": by_rule("multi-krum"),
    "median": by_rule("median"),
    "trimmed-mean": by_rule("trimmed-mean"),
}
