"""Stacks of any dense graph, by ``DenseProgram``: adapters, other bends, all that is not layers in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.engines.stacks import Stack
from galaxylearning.errors import DataRefused
from galaxylearning.graph.dense import DenseProgram, dense_weights_from_bytes
from galaxylearning.graph.labels import prepare_labels
from galaxylearning.graph.model import Model
from galaxylearning.learning.vectors import F32

Array: TypeAlias = npt.NDArray[Any]

_MOMENT_BYTES = 8 << 20
"""What the program's own blocks of values and slopes take, about."""


@dataclass(frozen=True, slots=True, eq=False)
class DenseStacks:
    """A dense program with the state that does not train. Implements ``StackNet`` and ``StackWork``."""

    program: DenseProgram
    frozen: Mapping[str, F32]

    @classmethod
    def of(cls, model: Model, buffers: F32) -> DenseStacks | None:
        """Stacks of the model's graph, with ``buffers`` f32[B]; None if the graph is not dense."""
        program = DenseProgram.of(model.graph)
        if program is None:
            return None
        weights = dense_weights_from_bytes(model.graph, model.state_bytes(*model.initial()))
        return cls(program, program.frozen(weights, buffers))

    @property
    def parameters(self) -> int:
        """Parameters of one model, P."""
        return self.program.parameter_count

    @property
    def classes(self) -> int:
        """Width of the output, c."""
        return self.program.outputs_count

    @property
    def loss(self) -> str:
        """The named loss."""
        return self.program.loss

    def stack_over(self, flat: F32, models: int) -> Stack:
        """See ``StackNet.stack_over``; the one part is f32[M, P], in the order of the graph."""
        used = flat[: models * self.parameters]
        return Stack(used, (used.reshape(models, self.parameters),))

    def load(self, params: F32) -> Stack:
        """See ``StackNet.load``."""
        return self.stack_over(params.flatten(), len(params))

    def rows(self, inputs: Array) -> F32:
        """See ``StackNet.rows``; they stay as they are."""
        given = self.program.graph.inputs[0]
        where = f"input {given.name}"
        if inputs.dtype != np.float32:
            raise DataRefused(f"must be float32, not {inputs.dtype}", where=where)
        if not inputs.size or inputs.shape[1:] != self.program.input_shape:
            wanted = ", ".join(["n", *map(str, self.program.input_shape)])
            raise DataRefused(
                f"must have shape [{wanted}] with n >= 1, not {list(inputs.shape)}", where=where
            )
        return inputs

    def labels(self, labels: Array) -> Array:
        """See ``StackNet.labels``."""
        return prepare_labels(self.loss, labels, (len(labels) if labels.ndim else 0, self.classes))

    def targets(self, labels: Array) -> Array:
        """See ``StackNet.targets``: the labels themselves."""
        return self.labels(labels)

    def shared(self, stack: Stack, rows: F32) -> F32:  # noqa: ARG002  nothing is shared between the models
        """See ``StackNet.shared``: nothing."""
        return np.empty(0, np.float32)

    def shared_bytes(self, models: int, rows: int) -> int:  # noqa: ARG002
        """Nothing is shared."""
        return 0

    def work(self, models: int, rows: int) -> DenseStacks:  # noqa: ARG002
        """The program allocates as it goes, and serves any number of threads."""
        return self

    def work_bytes(self, models: int, rows: int) -> int:
        """See ``StackNet.work_bytes``."""
        widest = 8 * rows * sum(self.program.widths)
        return max(_MOMENT_BYTES, widest) + 4 * models * (rows * self.classes + self.parameters)

    def forward(self, stack: Stack, rows: Array) -> F32:
        """See ``StackWork.forward``."""
        return self.program.outputs(stack.parts[0], rows, frozen=self.frozen).transpose(2, 0, 1)

    def mixed(self, source: Stack, shared: F32, factors: F32, rows: Array) -> F32:  # noqa: ARG002
        """See ``StackWork.mixed``."""
        return self.program.outputs(factors @ source.parts[0], rows, frozen=self.frozen).transpose(2, 0, 1)

    def gradient(self, stack: Stack, rows: Array, targets: Array, scale: float, out: Stack) -> None:
        """See ``StackWork.gradient``."""
        self.program.gradients(stack.parts[0], rows, targets, out=out.parts[0], frozen=self.frozen)
        out.flat[:] *= np.float32(scale)
