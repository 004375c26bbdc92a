"""How the operations of a dense program meet weights: one model's for all columns, or each model's own.

Two arrangements of columns. *Flat*: values are ``[features, columns]``, and the columns of each model (of
each data owner) lie together; models with equally many are a group, whose values are viewed as
``[models, features, columns each]`` and multiplied in one call. *Broad*: many models on the same rows, values
are ``[models, features, rows]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.graph.dense_ops import Matrix, Vector

F32: TypeAlias = npt.NDArray[np.float32]
I64: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """Models ``first..last-1`` have ``width`` columns each, from column ``start`` on."""

    first: int
    last: int
    width: int
    start: int


class FlatFrame:
    """One pass over columns that lie model by model.

    ``params`` is ``[P]``, shared by all models, or ``[models, P]``; ``gradients`` ``[models, P]`` is what
    derivatives by parameters are written to; ``starts`` ``[models]`` are the models' first columns.
    """

    def __init__(
        self,
        values: list[F32],
        slopes: list[F32],
        groups: Sequence[Group],
        starts: I64,
        frozen: Mapping[str, F32],
        params: F32,
        gradients: F32,
    ) -> None:
        self.values, self.slopes = values, slopes
        self.params, self.gradients = params, gradients
        self.groups, self.frozen = groups, frozen
        self.starts = starts
        self._split: dict[int, list[F32]] = {}
        self._blocks: dict[tuple[Matrix, bool], list[F32]] = {}

    # ---- products

    def product(self, weight: Matrix, x: int, y: int) -> None:
        """See ``Frame.product``."""
        if self._is_shared(weight):
            np.matmul(self._shared(weight), self.values[x], out=self.values[y])
            return
        parts = zip(
            self._own(weight, self.params),
            self._parts(self.values[x]),
            self._parts(self.values[y]),
            strict=True,
        )
        for w, source, target in parts:
            np.matmul(w, source, out=target)

    def product_back(self, weight: Matrix, y: int, x: int, *, first: bool) -> None:
        """See ``Frame.product_back``."""
        slope = self.slopes[x]
        target = slope if first else np.empty_like(slope)
        if self._is_shared(weight):
            np.matmul(self._shared(weight).T, self.slopes[y], out=target)
        else:
            targets = self._parts(target) if first else split(target, self.groups)
            for w, source, out in zip(
                self._own(weight, self.params), self._parts(self.slopes[y]), targets, strict=True
            ):
                np.matmul(w.swapaxes(1, 2), source, out=out)
        if not first:
            slope += target

    def product_slope(self, weight: Matrix, y: int, x: int, *, first: bool) -> None:
        """See ``Frame.product_slope``."""
        parts = zip(
            self._own(weight, self.gradients),
            self._parts(self.slopes[y]),
            self._parts(self.values[x]),
            strict=True,
        )
        for target, slope, source in parts:
            if first:
                np.matmul(slope, source.swapaxes(1, 2), out=target)
            else:
                target += np.matmul(slope, source.swapaxes(1, 2))

    # ---- vectors

    def add_vector(self, vector: Vector, y: int, sign: float) -> None:
        """See ``Frame.add_vector``."""
        values = self.values[y]
        if vector.is_trainable and self.params.ndim == 2:
            for part, own in zip(self._parts(values), self._vectors(vector), strict=True):
                np.add(part, own if sign == 1.0 else np.float32(sign) * own, out=part)
        else:
            own = self._vector(vector)
            np.add(values, own if sign == 1.0 else np.float32(sign) * own, out=values)

    def multiply_vector(self, vector: Vector, values: F32, out: F32) -> None:
        """See ``Frame.multiply_vector``."""
        if vector.is_trainable and self.params.ndim == 2:
            for source, target, own in zip(
                self._parts(values), self._parts(out), self._vectors(vector), strict=True
            ):
                np.multiply(source, own, out=target)
        else:
            np.multiply(values, self._vector(vector), out=out)

    def vector_slope(self, vector: Vector, slope: F32, sign: float, *, first: bool) -> None:
        """See ``Frame.vector_slope``."""
        if slope.shape[0] != vector.size:
            slope = slope.sum(0, keepdims=True)
        if len(self.starts) == 1:
            found = slope.sum(1, keepdims=True).T
        else:
            found = np.add.reduceat(slope, self.starts, axis=1).T
        target = self.gradients[:, vector.start : vector.start + vector.size]
        _write(target, found if sign == 1.0 else np.float32(sign) * found, first=first)

    # ---- views

    def _is_shared(self, weight: Matrix) -> bool:
        return self.params.ndim == 1 or not weight.is_trainable

    def _shared(self, weight: Matrix) -> F32:
        if not weight.is_trainable:
            held = self.frozen[weight.name]
            return held.T if weight.is_transposed else held
        held = self.params[weight.start : weight.start + weight.rows * weight.columns]
        if weight.is_transposed:
            return held.reshape(weight.columns, weight.rows).T
        return held.reshape(weight.rows, weight.columns)

    def _vector(self, vector: Vector) -> F32:
        if not vector.is_trainable:
            return self.frozen[vector.name].reshape(-1, 1)
        return self.params[vector.start : vector.start + vector.size, None]

    def _vectors(self, vector: Vector) -> list[F32]:
        part = self.params[:, vector.start : vector.start + vector.size, None]
        return [part[g.first : g.last] for g in self.groups]

    def _own(self, weight: Matrix, vectors: F32) -> list[F32]:
        """A weight, or the derivative by it, of each group's models: views ``[models, rows, columns]``."""
        key = (weight, vectors is self.gradients)
        found = self._blocks.get(key)
        if found is None:
            stacked = stacked_matrix(weight, vectors)
            found = self._blocks[key] = [stacked[g.first : g.last] for g in self.groups]
        return found

    def _parts(self, array: F32) -> list[F32]:
        found = self._split.get(id(array))
        if found is None:
            found = self._split[id(array)] = split(array, self.groups)
        return found


class BroadFrame:
    """One pass of many models over the same rows; what no parameter has touched is ``[features, rows]``.

    ``params`` and ``gradients`` are ``[models, P]``.
    """

    def __init__(
        self, values: list[F32], slopes: list[F32], frozen: Mapping[str, F32], params: F32, gradients: F32
    ) -> None:
        self.values, self.slopes = values, slopes
        self.params, self.gradients, self.frozen = params, gradients, frozen

    def product(self, weight: Matrix, x: int, y: int) -> None:
        """See ``Frame.product``."""
        np.matmul(self._matrix(weight), self.values[x], out=self.values[y])

    def product_back(self, weight: Matrix, y: int, x: int, *, first: bool) -> None:
        """See ``Frame.product_back``."""
        transposed = self._matrix(weight).swapaxes(-1, -2)
        if first:
            np.matmul(transposed, self.slopes[y], out=self.slopes[x])
        else:
            self.slopes[x] += np.matmul(transposed, self.slopes[y])

    def product_slope(self, weight: Matrix, y: int, x: int, *, first: bool) -> None:
        """See ``Frame.product_slope``."""
        target, source = stacked_matrix(weight, self.gradients), self.values[x].swapaxes(-1, -2)
        if first:
            np.matmul(self.slopes[y], source, out=target)
        else:
            target += np.matmul(self.slopes[y], source)

    def add_vector(self, vector: Vector, y: int, sign: float) -> None:
        """See ``Frame.add_vector``."""
        np.add(self.values[y], np.float32(sign) * self._vector(vector), out=self.values[y])

    def multiply_vector(self, vector: Vector, values: F32, out: F32) -> None:
        """See ``Frame.multiply_vector``."""
        np.multiply(values, self._vector(vector), out=out)

    def vector_slope(self, vector: Vector, slope: F32, sign: float, *, first: bool) -> None:
        """See ``Frame.vector_slope``."""
        if slope.shape[-2] != vector.size:
            slope = slope.sum(-2, keepdims=True)
        target = self.gradients[:, vector.start : vector.start + vector.size]
        _write(target, np.float32(sign) * slope.sum(-1), first=first)

    def _matrix(self, weight: Matrix) -> F32:
        if weight.is_trainable:
            return stacked_matrix(weight, self.params)
        held = self.frozen[weight.name]
        return held.T if weight.is_transposed else held

    def _vector(self, vector: Vector) -> F32:
        if not vector.is_trainable:
            return self.frozen[vector.name].reshape(-1, 1)
        return self.params[:, vector.start : vector.start + vector.size, None]


def stacked_matrix(weight: Matrix, vectors: F32) -> F32:
    """A weight of each of ``[models, P]`` as a view ``[models, rows, columns]``."""
    held = vectors[:, weight.start : weight.start + weight.rows * weight.columns]
    if weight.is_transposed:
        return held.reshape(-1, weight.columns, weight.rows).swapaxes(1, 2)
    return held.reshape(-1, weight.rows, weight.columns)


def split(array: F32, groups: Sequence[Group]) -> list[F32]:
    """``[features, columns]`` as one view ``[models, features, width]`` for each group."""
    views = []
    for g in groups:
        models = g.last - g.first
        part = array[:, g.start : g.start + models * g.width]
        views.append(part.reshape(array.shape[0], models, g.width).transpose(1, 0, 2))
    return views


def _write(target: F32, found: F32, *, first: bool) -> None:
    if first:
        target[...] = found
    else:
        target += found
