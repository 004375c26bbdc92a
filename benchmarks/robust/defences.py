"""What is compared: the masked gate and four rules that see every update, all on the same integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from galaxylearning.learning.exact import IntRows, exact_products
from galaxylearning.learning.rules import apply_rule
from galaxylearning.learning.vectors import F64, I64

PROJECTIONS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a defence may use: integer updates [m, P], the hidden set's step int64[P], how many may be bad."""

    rows: IntRows
    reference: I64
    faulty: int
    rng: np.random.Generator
    loss: object = None


Defence = Callable[[Seen], F64]
"""The mean step f64[P] in quantised units; zeros where nothing is accepted."""


def by_rule(name: str) -> Defence:
    """A rule of the package that sees every update."""

    def federate(seen: Seen) -> F64:
        found = apply_rule(name, seen.rows, faulty=seen.faulty, rng=seen.rng, reference=seen.reference)
        return found.total / max(1, found.divisor)

    return federate


def masked_gate(seen: Seen) -> F64:
    """The gate as it works under masks: one product with the hidden set's step, norms by projections."""
    rows = seen.rows
    product = exact_products(rows, seen.reference[None])[:, 0].astype(np.float64)
    signs = seen.rng.choice(np.array([-1, 1]), (PROJECTIONS, rows.shape[1])).astype(np.int64)
    projected = exact_products(rows, signs).astype(np.float64)
    norms = np.sqrt((projected**2).mean(axis=1))
    positive = product > 0
    if not positive.any():
        return np.zeros(rows.shape[1])
    median = np.sort(norms[positive])[(int(positive.sum()) - 1) // 2]
    weights = np.where(positive, np.floor(15 * np.minimum(1, median / np.maximum(norms, 1e-9)) + 0.5), 0)
    return weights @ rows / max(1.0, weights.sum())


DEFENCES: dict[str, Defence] = {
    "gate (masked)": masked_gate,
    "fltrust": by_rule("fltrust"),
    "multi-krum": by_rule("multi-krum"),
    "median": by_rule("median"),
    "trimmed-mean": by_rule("trimmed-mean"),
}
