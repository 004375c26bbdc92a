"""The named losses on feature-major outputs, with their derivatives; the arithmetic has the outputs' type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.graph.labels import CLASS_LOSSES

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Labels of ``n`` columns as a loss takes them: for class numbers the place of each column's class among
    the flattened outputs ``[c * n]``, for real targets ``[c, n]``.
    """

    values: Array

    @classmethod
    def of(cls, loss: str, labels: Array) -> Targets:
        """Targets from prepared labels: int64 ``[n]`` for class losses, otherwise float32 ``[n, c]``."""
        if loss in CLASS_LOSSES:
            return cls(labels * labels.size + np.arange(labels.size))
        return cls(labels.T)


def losses(loss: str, outputs: Floats, targets: Targets) -> Floats:
    """Loss of each column, ``[n]`` or ``[models, n]``, from outputs ``[.., c, n]``."""
    if loss in CLASS_LOSSES:
        return _LOSSES[loss](outputs, targets.values)
    found: Floats = _LOSSES[loss](outputs, targets.values).mean(-2)
    return found


def losses_and_slope(loss: str, outputs: Floats, targets: Targets, weights: Floats, slope: Floats) -> Floats:
    """The same losses; ``slope`` becomes the derivative of their sum weighted by ``weights`` ``[n]``."""
    return _BOTH[loss](outputs, targets.values, weights, slope)


# ---- class numbers


def _flat(values: Floats) -> Floats:
    """Features and columns as one axis; a view."""
    return values.reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])


def _cross_entropy(outputs: Floats, places: Array) -> Floats:
    shifted = outputs - outputs.max(-2, keepdims=True)
    picked = _flat(shifted)[..., places]
    np.exp(shifted, out=shifted)
    found: Floats = np.log(shifted.sum(-2)) - picked
    return found


def _cross_entropy_both(outputs: Floats, places: Array, weights: Floats, slope: Floats) -> Floats:
    np.subtract(outputs, outputs.max(-2, keepdims=True), out=slope)
    flat = _flat(slope)
    picked = flat[..., places]
    np.exp(slope, out=slope)
    total = slope.sum(-2)
    slope *= (weights / total)[..., None, :]
    flat[..., places] -= weights
    found: Floats = np.log(total) - picked
    return found


def _nll(outputs: Floats, places: Array) -> Floats:
    return -_flat(outputs)[..., places]


def _nll_both(outputs: Floats, places: Array, weights: Floats, slope: Floats) -> Floats:
    slope[...] = 0
    _flat(slope)[..., places] = -weights
    return _nll(outputs, places)


# ---- real targets: the loss of each element, then the derivative by each output


def _bce(outputs: Floats, targets: Array) -> Floats:
    found: Floats = np.maximum(outputs, 0) - outputs * targets + np.log1p(np.exp(-np.abs(outputs)))
    return found


def _bce_slope(outputs: Floats, targets: Array) -> Floats:
    one = outputs.dtype.type(1)
    found: Floats = one / (one + np.exp(-outputs)) - targets
    return found


def _mse(outputs: Floats, targets: Array) -> Floats:
    found: Floats = np.square(outputs - targets)
    return found


def _mse_slope(outputs: Floats, targets: Array) -> Floats:
    found: Floats = 2 * (outputs - targets)
    return found


def _l1(outputs: Floats, targets: Array) -> Floats:
    found: Floats = np.abs(outputs - targets)
    return found


def _l1_slope(outputs: Floats, targets: Array) -> Floats:
    found: Floats = np.sign(outputs - targets)
    return found


def _huber(outputs: Floats, targets: Array) -> Floats:
    away = np.abs(outputs - targets)
    half = outputs.dtype.type(0.5)
    found: Floats = np.where(away <= 1, half * away * away, away - half)
    return found


def _huber_slope(outputs: Floats, targets: Array) -> Floats:
    found: Floats = np.clip(outputs - targets, -1, 1)
    return found


def _elementwise(
    value: Callable[[Floats, Array], Floats], derivative: Callable[[Floats, Array], Floats]
) -> Callable[[Floats, Array, Floats, Floats], Floats]:
    def both(outputs: Floats, targets: Array, weights: Floats, slope: Floats) -> Floats:
        share = weights / outputs.dtype.type(outputs.shape[-2])
        np.multiply(derivative(outputs, targets), share, out=slope, casting="same_kind")
        found: Floats = value(outputs, targets).mean(-2)
        return found

    return both


_LOSSES: Mapping[str, Callable[[Floats, Array], Floats]] = MappingProxyType(
    {
        "cross_entropy": _cross_entropy,
        "nll": _nll,
        "bce_with_logits": _bce,
        "mse": _mse,
        "l1": _l1,
        "huber": _huber,
    }
)
_BOTH: Mapping[str, Callable[[Floats, Array, Floats, Floats], Floats]] = MappingProxyType(
    {
        "cross_entropy": _cross_entropy_both,
        "nll": _nll_both,
        "bce_with_logits": _elementwise(_bce, _bce_slope),
        "mse": _elementwise(_mse, _mse_slope),
        "l1": _elementwise(_l1, _l1_slope),
        "huber": _elementwise(_huber, _huber_slope),
    }
)
