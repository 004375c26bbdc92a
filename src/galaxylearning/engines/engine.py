"""The one interface of all engines, and what they give back. Knows no tensor library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.private import ExampleNoise
from galaxylearning.learning.vectors import F32, F64, I64

TOLERANCE_LEVELS = 2
"""Engines agree when no integer of a clipped, quantised update (16 bits) differs by more than this."""


@dataclass(frozen=True, slots=True)
class Training:
    """What every data owner does with the model it receives; ``seed`` is the job's.

    With ``noise`` every step is one of ``learning.private``.
    """

    plan: LocalPlan
    seed: int
    noise: ExampleNoise | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """Results of ``m`` data owners; the arrays may be overwritten once the next results are asked for.

    ``updates`` f32[m, P] are trained minus received parameters, ``buffers`` f32[m, B] the buffers after
    training, ``steps`` int64[m] the optimiser steps taken, ``losses`` f64[m, 2] those of the first and the
    last batch before their steps. An owner named in ``failures`` (owner -> what happened) has rows of zeros.
    """

    owners: I64
    updates: F32
    buffers: F32
    steps: I64
    losses: F64
    failures: Mapping[int, str] = field(default_factory=dict)


def require_state(params: F32, buffers: F32, *, parameters: int, n_buffers: int) -> None:
    """Refuse vectors that are no state of a model of so many parameters and federated buffers.

    Raises:
        ValueError: naming the vector and what is allowed.
    """
    for name, vector, size in (("params", params, parameters), ("buffers", buffers, n_buffers)):
        if not isinstance(vector, np.ndarray) or vector.dtype != np.float32 or vector.shape != (size,):
            raise ValueError(f"{name} must be a float32 array of shape ({size},)")


class Engine(Protocol):
    """Trains data owners of one cohort, by one plan, from any model state."""

    name: str

    def train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        """Train ``owners`` (positions in the cohort, each once) from ``params`` f32[P], ``buffers`` f32[B].

        Results come in the order of ``owners``, as many at a time as fit the engine's memory budget. The
        outcome depends on nothing but the arguments: not on the number of workers, not on chunk sizes beyond
        float rounding.

        Raises:
            ValueError: vectors of a wrong type or size, an owner that is not in the cohort.
        """
        ...

    def close(self) -> None:
        """Let go of workers and memory; may be called twice."""
        ...
