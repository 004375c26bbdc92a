"""Stacks: many models of one graph over the same rows, and the two ways of computing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.learning.vectors import F32, I64

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Parameters of M models. ``flat`` f32[M * P] holds the ``parts`` f32[M, ...] one after the other."""

    flat: F32
    parts: tuple[F32, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def read(self, source: Stack, members: I64) -> None:
        """Become the ``members`` of ``source``, as many as this stack holds."""
        for part, whole in zip(self.parts, source.parts, strict=True):
            # With "raise" the result would go through a buffer.
            np.take(whole, members, axis=0, out=part, mode="clip")

    def mix(self, factors: F32, source: Stack) -> None:
        """Become sums of the models of ``source``, each times its factor, f32[models, models of source]."""
        for part, whole in zip(self.parts, source.parts, strict=True):
            np.matmul(factors, whole.reshape(len(whole), -1), out=part.reshape(len(factors), -1))


class StackWork(Protocol):
    """Passes over stacks of bounded size; one thread's own."""

    def forward(self, stack: Stack, rows: Array) -> F32:
        """Outputs f32[c, M, n] of every model on ``rows`` [n, ...] (as ``StackNet.rows`` gives them)."""
        ...

    def mixed(self, source: Stack, shared: F32, factors: F32, rows: Array) -> F32:
        """Outputs f32[c, M, n] of the models ``Stack.mix`` would make; ``shared`` as ``StackNet.shared``."""
        ...

    def gradient(self, stack: Stack, rows: Array, targets: Array, scale: float, out: Stack) -> None:
        """Write ``scale`` times the gradient of every model's mean loss over the batch to ``out``.

        ``rows`` [b, ...] and ``targets`` [b, ...] are as the net's methods of these names give them.
        """
        ...


class StackNet(Protocol):
    """A graph that stacks of models can be made of."""

    @property
    def parameters(self) -> int:
        """Parameters of one model, P."""
        ...

    @property
    def classes(self) -> int:
        """Width of the output, c."""
        ...

    @property
    def loss(self) -> str:
        """The named loss of the outputs that passes give."""
        ...

    def stack_over(self, flat: F32, models: int) -> Stack:
        """The first ``models * P`` numbers of ``flat`` as a stack."""
        ...

    def load(self, params: F32) -> Stack:
        """A stack of the models with parameters ``params`` f32[M, P], which are copied."""
        ...

    def rows(self, inputs: Array) -> F32:
        """Rows as passes take them.

        Raises:
            DataRefused: another type or shape than the graph takes, or no row.
        """
        ...

    def labels(self, labels: Array) -> Array:
        """Labels of n rows as the loss takes them: class numbers int64[n] or targets f32[n, c].

        Raises:
            DataRefused: another type or shape, or a value out of range.
        """
        ...

    def targets(self, labels: Array) -> Array:
        """Labels as ``StackWork.gradient`` takes them, one entry for each row.

        Raises:
            DataRefused: as :meth:`labels`.
        """
        ...

    def shared(self, stack: Stack, rows: F32) -> F32:
        """What mixtures of the models of ``stack`` need of these rows, computed once."""
        ...

    def shared_bytes(self, models: int, rows: int) -> int:
        """Size of what :meth:`shared` gives."""
        ...

    def work(self, models: int, rows: int) -> StackWork:
        """Memory for passes over up to so many models and rows."""
        ...

    def work_bytes(self, models: int, rows: int) -> int:
        """Bytes of that memory, and of what passes take for a moment."""
        ...
