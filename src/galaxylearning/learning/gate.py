"""The gate before anything is averaged: which updates count, and how much.

An update counts when it points the way of a step on the hidden set; its integer weight bounds its norm by
the cohort's median. All decisions are made in exact integers, so every evaluator makes the same ones, in any
order of the updates. Nothing a data owner claims (a sample count) is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from galaxylearning.learning.quantise import MAX_WEIGHT
from galaxylearning.learning.vectors import I32, I64, exact_dot, require_integer, require_vector

ZERO_UPDATE = "zero update"
NO_REFERENCE = "zero reference step"
AGAINST_REFERENCE = "cosine to the hidden-set step is not positive"
TOO_LARGE = "norm too far above the median"


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the gate made of one update.

    ``weight`` is 1..max_weight when accepted, else 0. ``cosine`` is to the reference, ``norm`` the L2 norm in
    quantised units; both for display only (0.0 where undefined). ``reason`` says why it was not accepted.
    """

    accepted: bool
    weight: int
    cosine: float
    norm: float
    reason: str | None


def gate(updates: Sequence[I32], reference: I64, *, max_weight: int = 15) -> tuple[GateDecision, ...]:
    """Decide on each of ``updates`` int32[P] against ``reference`` int64[P], the quantised hidden-set step.

    Accepted: a positive product with the reference. Weight: ``max_weight * min(1, median / norm)`` rounded
    half up, where ``median`` is the lower median norm of the updates with a positive product; a weight of 0
    is a rejection. A zero reference accepts nothing.

    Raises:
        UpdateRefused: an update or the reference has the wrong type or size (positions are named).
        ConfigRefused: ``max_weight`` is outside 1..2**20.
    """
    top = require_integer(max_weight, "max_weight", low=1, high=MAX_WEIGHT)
    step = require_vector(reference, "reference", np.int64)
    vectors = [
        require_vector(update, f"updates[{index}]", np.int32, size=step.size)
        for index, update in enumerate(updates)
    ]
    step_square = exact_dot(step, step)
    squares = [exact_dot(vector, vector) for vector in vectors]
    products = [exact_dot(vector, step) for vector in vectors]
    positive = sorted(square for square, product in zip(squares, products, strict=True) if product > 0)
    median_square = positive[(len(positive) - 1) // 2] if positive else 0
    return tuple(
        _decide(square, product, step_square, median_square, top)
        for square, product in zip(squares, products, strict=True)
    )


def _decide(square: int, product: int, step_square: int, median_square: int, top: int) -> GateDecision:
    norm = math.sqrt(square)
    if square == 0:
        return GateDecision(False, 0, 0.0, 0.0, ZERO_UPDATE)
    if step_square == 0:
        return GateDecision(False, 0, 0.0, norm, NO_REFERENCE)
    cosine = max(-1.0, min(1.0, product / (norm * math.sqrt(step_square))))
    if product <= 0:
        return GateDecision(False, 0, cosine, norm, AGAINST_REFERENCE)
    weight = top if square <= median_square else _scaled_weight(top, median_square, square)
    if weight == 0:
        return GateDecision(False, 0, cosine, norm, TOO_LARGE)
    return GateDecision(True, weight, cosine, norm, None)


def _scaled_weight(top: int, median_square: int, square: int) -> int:
    """``floor(top * sqrt(median_square / square) + 1/2)`` without a float.

    It is the largest w with ``2 w - 1 <= sqrt(4 top^2 median_square / square)``.
    """
    return (math.isqrt(4 * top * top * median_square // square) + 1) // 2
