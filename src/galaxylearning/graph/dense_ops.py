"""What a dense program is made of: operations on activations, each with its derivative.

Activations lie feature-major: a value is float32 ``[features, columns]``, one column a row of data, or
``[models, features, columns]`` where every model gives its own. How a product meets the weights of one or of
many models is the frame's business (``dense_frames``); elementwise operations do not ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.graph.dense_curves import Curve

Array: TypeAlias = npt.NDArray[Any]
F32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A state entry used as ``weight @ x``: ``[rows, columns]``, stored so, or transposed.

    ``start`` is its place in the vector of parameters; a frozen one has -1 and is known by name.
    """

    name: str
    rows: int
    columns: int
    is_transposed: bool
    start: int

    @property
    def is_trainable(self) -> bool:
        """Whether the parameters hold it."""
        return self.start >= 0


@dataclass(frozen=True, slots=True)
class Vector:
    """A state entry of one value for each feature, or (size 1) one for all."""

    name: str
    size: int
    start: int

    @property
    def is_trainable(self) -> bool:
        """Whether the parameters hold it."""
        return self.start >= 0


class Frame(Protocol):
    """Where a pass keeps its values, and how weights meet them; see ``dense_frames``.

    ``values`` and ``slopes`` (derivatives of the loss) are indexed by value. ``first`` says that nothing has
    been written to a derivative yet: it is overwritten, not added to.
    """

    values: list[F32]
    slopes: list[F32]

    def product(self, weight: Matrix, x: int, y: int) -> None:
        """``y = weight @ x``."""

    def product_back(self, weight: Matrix, y: int, x: int, *, first: bool) -> None:
        """``slope[x] = weight^T @ slope[y]``."""

    def product_slope(self, weight: Matrix, y: int, x: int, *, first: bool) -> None:
        """The derivative by the weight, ``slope[y] @ x^T``."""

    def add_vector(self, vector: Vector, y: int, sign: float) -> None:
        """``y += sign * vector``, in place."""

    def multiply_vector(self, vector: Vector, values: F32, out: F32) -> None:
        """``out = values * vector``."""

    def vector_slope(self, vector: Vector, slope: F32, sign: float, *, first: bool) -> None:
        """The derivative by the vector: ``sign * slope`` summed over each model's columns."""


@dataclass(frozen=True, slots=True)
class Back:
    """How an operation's derivative goes on: which of its arguments want one (``wants``), which of those
    nobody has written to (``first``), and whether its parameter is met for the first time
    (``first_weight``).
    """

    wants: tuple[bool, ...]
    first: tuple[bool, ...]
    first_weight: bool


class Operation(Protocol):
    """One step of a program: from the values ``takes`` to the value ``gives``."""

    @property
    def takes(self) -> tuple[int, ...]:
        """Values it reads."""

    @property
    def gives(self) -> int:
        """The value it makes."""

    @property
    def weight(self) -> Matrix | Vector | None:
        """The state it uses."""

    @property
    def may_overwrite(self) -> bool:
        """Whether the result may take the first argument's place: nothing later asks what was there."""

    @property
    def keeps_result(self) -> bool:
        """Whether the derivative asks for the result."""

    def forward(self, frame: Frame) -> None:
        """Make the value."""

    def backward(self, frame: Frame, back: Back) -> None:
        """Hand the derivative on."""


@dataclass(frozen=True, slots=True)
class Product:
    """``y = weight @ x``."""

    x: int
    gives: int
    weight: Matrix
    may_overwrite: bool = False
    keeps_result: bool = False

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        frame.product(self.weight, self.x, self.gives)

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        if self.weight.is_trainable:
            frame.product_slope(self.weight, self.gives, self.x, first=back.first_weight)
        if back.wants[0]:
            frame.product_back(self.weight, self.gives, self.x, first=back.first[0])


@dataclass(frozen=True, slots=True)
class AddVector:
    """``y = x + sign * vector``."""

    x: int
    gives: int
    weight: Vector
    sign: float = 1.0
    may_overwrite: bool = True
    keeps_result: bool = False

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        place(frame.values[self.gives], frame.values[self.x])
        frame.add_vector(self.weight, self.gives, self.sign)

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        slope = frame.slopes[self.gives]
        if self.weight.is_trainable:
            frame.vector_slope(self.weight, slope, self.sign, first=back.first_weight)
        if back.wants[0]:
            hand_on(frame.slopes[self.x], slope, first=back.first[0])


@dataclass(frozen=True, slots=True)
class MultiplyVector:
    """``y = x * vector``."""

    x: int
    gives: int
    weight: Vector
    may_overwrite: bool = False
    keeps_result: bool = False

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        frame.multiply_vector(self.weight, frame.values[self.x], frame.values[self.gives])

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        slope = frame.slopes[self.gives]
        if self.weight.is_trainable:
            frame.vector_slope(self.weight, slope * frame.values[self.x], 1.0, first=back.first_weight)
        if back.wants[0]:
            frame.multiply_vector(self.weight, slope, slope)
            hand_on(frame.slopes[self.x], slope, first=back.first[0])


@dataclass(frozen=True, slots=True)
class Scale:
    """``y = factor * x + shift`` with plain numbers."""

    x: int
    gives: int
    factor: float
    shift: float
    weight: None = None
    may_overwrite: bool = True
    keeps_result: bool = False

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        x, y = frame.values[self.x], frame.values[self.gives]
        if self.factor != 1.0:
            np.multiply(x, np.float32(self.factor), out=y)
            x = y
        np.add(x, np.float32(self.shift), out=y)

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        slope = frame.slopes[self.gives]
        if self.factor != 1.0:
            np.multiply(slope, np.float32(self.factor), out=slope)
        hand_on(frame.slopes[self.x], slope, first=back.first[0])


@dataclass(frozen=True, slots=True)
class Combine:
    """``y = a + factor * b``."""

    a: int
    b: int
    gives: int
    factor: float
    weight: None = None
    may_overwrite: bool = False
    keeps_result: bool = False

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.a, self.b)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        a, b, y = frame.values[self.a], frame.values[self.b], frame.values[self.gives]
        if self.factor == 1.0:
            np.add(a, b, out=y)
        elif self.factor == -1.0:
            np.subtract(a, b, out=y)
        else:
            np.add(a, np.float32(self.factor) * b, out=y)

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        slope = frame.slopes[self.gives]
        # The second argument first: the first one's derivative may lie where this one does.
        if back.wants[1]:
            part = slope if self.factor == 1.0 else np.float32(self.factor) * slope
            hand_on(frame.slopes[self.b], part, first=back.first[1])
        if back.wants[0]:
            hand_on(frame.slopes[self.a], slope, first=back.first[0])


@dataclass(frozen=True, slots=True)
class Multiply:
    """``y = a * b``, elementwise."""

    a: int
    b: int
    gives: int
    weight: None = None
    may_overwrite: bool = False
    keeps_result: bool = False

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.a, self.b)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        np.multiply(frame.values[self.a], frame.values[self.b], out=frame.values[self.gives])

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        slope = frame.slopes[self.gives]
        pairs = ((self.b, self.a), (self.a, self.b))
        for (to, other), position in zip(pairs, (1, 0), strict=True):
            if back.wants[position]:
                hand_on(frame.slopes[to], slope * frame.values[other], first=back.first[position])


@dataclass(frozen=True, slots=True)
class Apply:
    """``y = curve(x)``, elementwise."""

    x: int
    gives: int
    curve: Curve
    weight: None = None

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    @property
    def may_overwrite(self) -> bool:
        """See ``Operation.may_overwrite``."""
        return not self.curve.keeps_argument

    @property
    def keeps_result(self) -> bool:
        """See ``Operation.keeps_result``."""
        return not self.curve.keeps_argument

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        self.curve.apply(frame.values[self.x], frame.values[self.gives])

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        slope = frame.slopes[self.gives]
        kept = frame.values[self.x if self.curve.keeps_argument else self.gives]
        self.curve.differentiate(kept, slope)
        hand_on(frame.slopes[self.x], slope, first=back.first[0])


@dataclass(frozen=True, slots=True)
class Normalise:
    """``y = (x - mean) / sqrt(variance + epsilon)`` over the features of each column; ``spread`` is a value
    of one feature that keeps the reciprocal root.
    """

    x: int
    gives: int
    spread: int
    epsilon: float
    weight: None = None
    may_overwrite: bool = True
    keeps_result: bool = True

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        x, y, spread = frame.values[self.x], frame.values[self.gives], frame.values[self.spread]
        np.subtract(x, x.mean(-2, keepdims=True), out=y)
        np.mean(y * y, axis=-2, keepdims=True, out=spread)
        np.add(spread, np.float32(self.epsilon), out=spread)
        np.divide(np.float32(1), np.sqrt(spread), out=spread)
        np.multiply(y, spread, out=y)

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``. Source: Ba et al. 2016 (arXiv 1607.06450)."""
        slope, y = frame.slopes[self.gives], frame.values[self.gives]
        along = (slope * y).mean(-2, keepdims=True)
        slope -= slope.mean(-2, keepdims=True)
        slope -= y * along
        slope *= frame.values[self.spread]
        hand_on(frame.slopes[self.x], slope, first=back.first[0])


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax over the features of each column, or its logarithm."""

    x: int
    gives: int
    is_log: bool
    weight: None = None
    may_overwrite: bool = True
    keeps_result: bool = True

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        x, y = frame.values[self.x], frame.values[self.gives]
        np.subtract(x, x.max(-2, keepdims=True), out=y)
        if self.is_log:
            np.subtract(y, np.log(np.exp(y).sum(-2, keepdims=True)), out=y)
        else:
            np.exp(y, out=y)
            np.divide(y, y.sum(-2, keepdims=True), out=y)

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``."""
        slope, y = frame.slopes[self.gives], frame.values[self.gives]
        if self.is_log:
            slope -= np.exp(y) * slope.sum(-2, keepdims=True)
        else:
            slope -= (slope * y).sum(-2, keepdims=True)
            slope *= y
        hand_on(frame.slopes[self.x], slope, first=back.first[0])


@dataclass(frozen=True, slots=True)
class Detach:
    """``y = x``, and no derivative goes back."""

    x: int
    gives: int
    weight: None = None
    may_overwrite: bool = False
    keeps_result: bool = False

    @property
    def takes(self) -> tuple[int, ...]:
        """See ``Operation.takes``."""
        return (self.x,)

    def forward(self, frame: Frame) -> None:
        """See ``Operation.forward``."""
        frame.values[self.gives][...] = frame.values[self.x]

    def backward(self, frame: Frame, back: Back) -> None:
        """See ``Operation.backward``; never asked, for nothing behind it wants a derivative."""


def place(target: F32, source: F32) -> None:
    """``target = source`` unless they are the same memory."""
    if target is not source:
        target[...] = source


def hand_on(target: F32, slope: F32, *, first: bool) -> None:
    """Write a derivative, or add it to what is there; where both share memory it is there already."""
    if target is slope:
        return
    if first:
        target[...] = slope
    else:
        target += slope
