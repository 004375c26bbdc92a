"""What a graph's names stand for while it is read into dense operations, and the pieces rules build from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.dense_curves import Curve
from galaxylearning.graph.dense_ops import (
    AddVector,
    Apply,
    Matrix,
    MultiplyVector,
    Operation,
    Product,
    Scale,
    Vector,
)
from galaxylearning.graph.document import Argument, ModelGraph, Ref, StateEntry

RECIPROCAL = "1/"
"""Before a state entry's name: a vector of the reciprocals. No entry's own name holds a slash."""


class NotDenseError(Exception):
    """The graph cannot be run as a dense program; the message says why."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A value of the program; ``shape`` is what follows the batch."""

    value: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """A state entry, or its transpose."""

    entry: StateEntry
    is_transposed: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """The number of rows, as an argument of a view."""


Value: TypeAlias = "Activation | Weight | Batch | int"


class Reader:
    """What has been read so far: the program's values, and what each name of the graph stands for."""

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.values: dict[tuple[str, str], Value] = {}
        self.operations: list[Operation] = []
        self.widths: list[int] = []
        start = 0
        self.starts: dict[str, int] = {}
        for entry in graph.state:
            self.values["state", entry.name] = Weight(entry)
            if entry.trainable:
                self.starts[entry.name] = start
                start += entry.elements

    # ---- values

    def new(self, shape: tuple[int, ...]) -> Activation:
        """A new value of the program."""
        self.widths.append(math.prod(shape))
        return Activation(len(self.widths) - 1, shape)

    def resolve(self, argument: Argument) -> Value:
        """What a reference points at.

        Raises:
            GraphRefused: nothing, or the argument is no reference.
        """
        if not isinstance(argument, Ref):
            raise GraphRefused("an argument must be a reference")
        found = self.values.get((argument.kind, argument.name))
        if found is None:
            raise GraphRefused(f"{argument.kind} {argument.name} is not there, or comes later")
        return found

    def activation(self, argument: Argument, rank: int | None = None) -> Activation:
        """An argument that is a value, with ``rank`` dimensions after the batch.

        Raises:
            NotDenseError: it is something else.
        """
        found = self.resolve(argument)
        if not isinstance(found, Activation) or (rank is not None and len(found.shape) != rank):
            raise NotDenseError("an argument is not a value of the expected rank")
        return found

    # ---- state

    def matrix(self, argument: Argument) -> Matrix:
        """An argument that is a weight used as ``x @ weight``, as the matrix on the left of columns."""
        found = self.resolve(argument)
        if not isinstance(found, Weight) or found.entry.dtype != "float32":
            raise NotDenseError("a factor is not a float32 weight")
        shape = found.entry.shape
        if len(shape) != 2:
            raise NotDenseError("a factor is not a matrix")
        rows, columns = shape if found.is_transposed else (shape[1], shape[0])
        start = self.starts.get(found.entry.name, -1)
        return Matrix(found.entry.name, rows, columns, not found.is_transposed, start)

    def product(self, x: Activation, weight: Matrix) -> Activation:
        """``x @ weight`` for rows."""
        if x.shape[-1] != weight.columns:
            raise GraphRefused(f"{x.shape[-1]} features meet a weight that takes {weight.columns}")
        if len(x.shape) != 1:
            raise NotDenseError("a product of more than [rows, features]")
        y = self.new((weight.rows,))
        self.operations.append(Product(x.value, y.value, weight))
        return y

    def vector(self, found: Value, shape: tuple[int, ...], *, is_reciprocal: bool = False) -> Vector:
        """A state entry that goes with values of ``shape``, elementwise and without changing their shape."""
        if not isinstance(found, Weight) or found.entry.dtype != "float32" or found.is_transposed:
            raise NotDenseError("an operand is neither a value, a number nor a float32 vector")
        entry = found.entry
        bare = entry.shape
        while bare and bare[0] == 1 and len(bare) > len(shape):
            bare = bare[1:]
        if entry.elements != 1 and bare != shape:
            raise NotDenseError(f"{entry.name} of shape {list(entry.shape)} meets values of {list(shape)}")
        start = self.starts.get(entry.name, -1)
        if is_reciprocal and start >= 0:
            raise NotDenseError("a division by a trainable vector")
        return Vector(RECIPROCAL + entry.name if is_reciprocal else entry.name, entry.elements, start)

    def add_vector(self, x: Activation, held: Vector, sign: float = 1.0) -> Activation:
        """``x + sign * vector``."""
        y = self.new(x.shape)
        self.operations.append(AddVector(x.value, y.value, held, sign))
        return y

    def multiply_vector(self, x: Activation, held: Vector) -> Activation:
        """``x * vector``."""
        y = self.new(x.shape)
        self.operations.append(MultiplyVector(x.value, y.value, held))
        return y

    def scale(self, x: Activation, factor: float, shift: float = 0.0) -> Activation:
        """``factor * x + shift``."""
        y = self.new(x.shape)
        self.operations.append(Scale(x.value, y.value, factor, shift))
        return y

    def curve(self, x: Activation, curve: Curve) -> Activation:
        """``curve(x)``."""
        y = self.new(x.shape)
        self.operations.append(Apply(x.value, y.value, curve))
        return y
