"""Elementwise functions of one argument, with their derivatives, as a graph may name them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]

_ERF_SCALE = np.float32(0.3275911)
_ERF_TERMS = tuple(map(np.float32, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)))


@dataclass(frozen=True, slots=True)
class Curve:
    """``apply(x, out)`` writes the function; ``differentiate(kept, slope)`` multiplies ``slope`` by the
    derivative in place. ``kept`` is the argument if ``keeps_argument``, otherwise the result. ``spare`` is
    how many float32 for each element either takes in passing, at most.
    """

    keeps_argument: bool
    spare: int
    apply: Callable[[F32, F32], object]
    differentiate: Callable[[F32, F32], object]


def relu() -> Curve:
    """``max(x, 0)``."""
    return Curve(
        False,
        1,
        lambda x, out: np.maximum(x, np.float32(0), out=out),
        lambda y, slope: np.multiply(slope, y > 0, out=slope),
    )


def tanh() -> Curve:
    """Hyperbolic tangent."""
    return Curve(
        False,
        3,
        lambda x, out: np.tanh(x, out=out),
        lambda y, slope: np.multiply(slope, np.float32(1) - y * y, out=slope),
    )


def sigmoid() -> Curve:
    """``1 / (1 + exp(-x))``."""
    return Curve(False, 3, logistic, lambda y, slope: np.multiply(slope, y * (np.float32(1) - y), out=slope))


def silu() -> Curve:
    """``x * sigmoid(x)``."""

    def differentiate(x: F32, slope: F32) -> None:
        s = logistic(x, np.empty_like(x))
        slope *= s * (np.float32(1) + x * (np.float32(1) - s))

    return Curve(
        True, 4, lambda x, out: np.multiply(x, logistic(x, np.empty_like(x)), out=out), differentiate
    )


def leaky_relu(slope_below: float) -> Curve:
    """``x`` above 0, ``slope_below * x`` elsewhere."""
    below = np.float32(slope_below)

    def differentiate(x: F32, slope: F32) -> None:
        slope *= np.where(x > 0, np.float32(1), below)

    return Curve(
        True, 2, lambda x, out: np.multiply(x, np.where(x > 0, np.float32(1), below), out=out), differentiate
    )


def elu(alpha: float) -> Curve:
    """``x`` above 0, ``alpha * (exp(x) - 1)`` elsewhere."""
    scale = np.float32(alpha)

    def apply(x: F32, out: F32) -> None:
        low = scale * np.expm1(np.minimum(x, np.float32(0)))
        np.copyto(out, np.where(x > 0, x, low))

    def differentiate(x: F32, slope: F32) -> None:
        slope *= np.where(x > 0, np.float32(1), scale * np.exp(np.minimum(x, np.float32(0))))

    return Curve(True, 5, apply, differentiate)


def softplus(beta: float, threshold: float) -> Curve:
    """``log(1 + exp(beta * x)) / beta``; ``x`` itself where ``beta * x`` is above ``threshold``."""
    b, t = np.float32(beta), np.float32(threshold)

    def apply(x: F32, out: F32) -> None:
        z = b * x
        np.copyto(out, np.where(z > t, x, np.log1p(np.exp(np.minimum(z, t))) / b))

    def differentiate(x: F32, slope: F32) -> None:
        z = b * x
        slope *= np.where(z > t, np.float32(1), logistic(z, np.empty_like(z)))

    return Curve(True, 6, apply, differentiate)


def clip(low: float, high: float, *, is_open: bool) -> Curve:
    """``x`` held within ``[low, high]``; ``is_open`` says that on the bounds the derivative is 0, not 1."""
    a, b = np.float32(low), np.float32(high)

    def differentiate(x: F32, slope: F32) -> None:
        slope *= ((x > a) & (x < b)) if is_open else ((x >= a) & (x <= b))

    return Curve(True, 1, lambda x, out: np.clip(x, a, b, out=out), differentiate)


def gelu_tanh() -> Curve:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))``."""
    root, cubic, half = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715), np.float32(0.5)
    one, three = np.float32(1), np.float32(3)

    def bend(x: F32) -> F32:
        found: F32 = np.tanh(root * (x + cubic * x * x * x))
        return found

    def differentiate(x: F32, slope: F32) -> None:
        t = bend(x)
        slope *= half * (one + t) + half * x * (one - t * t) * root * (one + three * cubic * x * x)

    return Curve(True, 8, lambda x, out: np.multiply(half * x, one + bend(x), out=out), differentiate)


def gelu() -> Curve:
    """``x`` times the normal distribution function."""
    half, root, density = np.float32(0.5), np.float32(math.sqrt(0.5)), np.float32(1 / math.sqrt(2 * math.pi))

    def share(x: F32) -> F32:
        return half * (np.float32(1) + erf(root * x))

    def differentiate(x: F32, slope: F32) -> None:
        slope *= share(x) + x * density * np.exp(-half * x * x)

    return Curve(True, 8, lambda x, out: np.multiply(x, share(x), out=out), differentiate)


def logistic(x: F32, out: F32) -> F32:
    """``1 / (1 + exp(-x))`` into ``out``; an overflow of the power gives the right 0."""
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, np.float32(1), out=out)
    return np.divide(np.float32(1), out, out=out)


def erf(x: F32) -> F32:
    """The error function to about 5e-7 absolute.

    Source: Abramowitz and Stegun 1964, formula 7.1.26.
    """
    size = np.abs(x)
    t = np.float32(1) / (np.float32(1) + _ERF_SCALE * size)
    tail = np.full_like(t, _ERF_TERMS[0])
    for term in _ERF_TERMS[1:]:
        tail *= t
        tail += term
    tail *= t
    tail *= np.exp(-size * size)
    found: F32 = np.copysign(np.float32(1) - tail, x)
    return found
