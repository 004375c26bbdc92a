"""Named losses over the outputs of many models at once, laid out class by class: f32[c, models, rows]."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.graph.labels import CLASS_LOSSES
from galaxylearning.learning.vectors import F32, F64, I64

Array: TypeAlias = npt.NDArray[Any]


def output_delta(loss: str, outputs: F32, targets: F32, scale: float, sums: F32) -> None:
    """Turn ``outputs`` f32[c, M, b], in place, into ``scale`` times the slope of each model's mean loss.

    ``targets`` f32[c, 1, b] are one-hot for cross-entropy, the one class loss that is taken here; ``sums``
    f32[M * b] is scratch.
    """
    classes, models, rows = outputs.shape
    if loss == "cross_entropy":
        totals = sums.reshape(models, rows)
        np.max(outputs, axis=0, out=totals)
        outputs -= totals
        np.exp(outputs, out=outputs)
        np.sum(outputs, axis=0, out=totals)
        totals *= np.float32(rows / scale)
        outputs /= totals
        outputs -= targets * np.float32(scale / rows)
        return
    factor = scale / (rows * classes)
    if loss == "bce_with_logits":
        np.negative(outputs, out=outputs)
        np.exp(outputs, out=outputs)
        outputs += np.float32(1)
        np.reciprocal(outputs, out=outputs)
    outputs -= targets
    if loss == "mse":
        factor *= 2.0
    elif loss == "l1":
        np.sign(outputs, out=outputs)
    elif loss == "huber":
        np.clip(outputs, -1.0, 1.0, out=outputs)
    outputs *= np.float32(factor)


def sample_losses(loss: str, outputs: F32, labels: Array) -> F64:
    """Loss of every model on every row, f64[M, n], in double precision from ``outputs`` f32[c, M, n].

    ``labels`` are class numbers int64[n], or targets f32[n, c].
    """
    wide = outputs.astype(np.float64)
    if loss in CLASS_LOSSES:
        picked = wide[labels, :, np.arange(len(labels))].T
        if loss == "nll":
            return -picked
        top = wide.max(axis=0)
        wide -= top
        np.exp(wide, out=wide)
        found: F64 = np.log(wide.sum(axis=0)) + (top - picked)
        return found
    targets = labels.astype(np.float64).T[:, None]
    if loss == "bce_with_logits":
        losses = np.maximum(wide, 0.0) - wide * targets + np.log1p(np.exp(-np.abs(wide)))
    else:
        gap = np.abs(wide - targets)
        if loss == "mse":
            losses = gap * gap
        elif loss == "huber":
            losses = np.where(gap < 1.0, 0.5 * gap * gap, gap - 0.5)
        else:
            losses = gap
    mean: F64 = losses.mean(axis=0)
    return mean


def correct_predictions(outputs: F32, labels: I64) -> I64:
    """How many of the rows every model gives the right class, int64[M]; a tie goes to the lower class."""
    found: I64 = (np.argmax(outputs, axis=0) == labels).sum(axis=1)
    return found
