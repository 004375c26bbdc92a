"""How far engines are apart, and how fast one is. Imports no tensor library until operations are counted."""

from __future__ import annotations

import numpy as np

from galaxylearning.engines.batching import shapes_of
from galaxylearning.graph.document import ModelGraph
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.quantise import Quantizer, clip_norm
from galaxylearning.learning.vectors import F32, I64

BITS = 16
"""Updates are compared as integers of so many bits."""


def levels_apart(one: F32, other: F32, max_norm: float, bits: int = BITS) -> int:
    """How far the integers of two updates f32[P] differ at most, clipped to ``max_norm`` as a job would."""
    quantizer = Quantizer(bits, max_norm)
    first, second = (
        quantizer.quantize(clip_norm(update, max_norm)).astype(np.int64) for update in (one, other)
    )
    return int(np.abs(first - second).max(initial=0))


def training_flops(graph: ModelGraph, plan: LocalPlan, counts: I64) -> int:
    """Operations of the local trainings of data owners with so many rows, int64[K].

    A training step is counted as three forward passes, a multiply-add as two operations.
    """
    from galaxylearning.graph.cost import meter

    distinct, repeats = np.unique(counts, return_counts=True)
    per_row = meter(graph, 1).flops_forward
    total = 0
    for rows, times in zip(distinct.tolist(), repeats.tolist(), strict=True):
        steps, widths = shapes_of(np.array([rows], np.int64), plan)
        seen = plan.epochs * rows if plan.epochs is not None else int(steps[0] * widths[0])
        total += 3 * per_row * seen * times
    return total


def achieved_flops(graph: ModelGraph, plan: LocalPlan, counts: I64, seconds: float) -> float:
    """Operations a second that training data owners with so many rows in so many seconds reached.

    Raises:
        ValueError: no time passed.
    """
    if not seconds > 0:
        raise ValueError("seconds must be above 0")
    return training_flops(graph, plan, counts) / seconds
