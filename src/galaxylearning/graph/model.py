"""What everything above the graph needs of a model: numpy in, numpy out, whoever does the arithmetic."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from galaxylearning.graph.document import ModelGraph

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
Array: TypeAlias = npt.NDArray[Any]

NO_EXAMPLES = "batch statistics mix the samples: use GroupNorm or LayerNorm instead of BatchNorm"
"""Why some graphs have no gradients of single samples."""


class Model(Protocol):
    """A graph with its initial weights, seen as flat vectors: ``params`` f32[P], ``buffers`` f32[B].

    ``FlatModel`` is the reference and the one whose digits are agreed upon between evaluators;
    ``DenseModel`` computes the same for dense graphs without a tensor library.
    """

    graph: ModelGraph
    parameter_count: int
    buffer_count: int

    def initial(self) -> tuple[F32, F32]:
        """The initial weights as (params [P], buffers [B])."""
        ...

    def gradient(
        self,
        params: F32,
        buffers: F32,
        inputs: tuple[Array, ...],
        labels: Array,
        *,
        rng: np.random.Generator | None = None,
    ) -> tuple[float, F32, F32]:
        """Mean loss over the batch in training mode, its gradient [P], the buffers after the pass [B]."""
        ...

    def per_sample_loss(self, params: F32, buffers: F32, inputs: tuple[Array, ...], labels: Array) -> F64:
        """Loss of each sample in evaluation mode, f64[n]."""
        ...

    def gradient_eval(
        self, params: F32, buffers: F32, inputs: tuple[Array, ...], labels: Array, *, clip: float | None
    ) -> F64:
        """Gradient of the summed loss in evaluation mode, f64[P]; with ``clip`` of min(loss, clip)."""
        ...

    def predict(self, params: F32, buffers: F32, inputs: tuple[Array, ...]) -> Array:
        """The graph's outputs in evaluation mode, [n, ...]."""
        ...

    def state_bytes(self, params: F32, buffers: F32) -> bytes:
        """The whole model as canonical safetensors."""
        ...


class ExampleModel(Model, Protocol):
    """A model that can also tell the gradients of single samples, as differential privacy needs them."""

    def example_gradients(
        self,
        params: F32,
        buffers: F32,
        inputs: tuple[Array, ...],
        labels: Array,
        *,
        rng: np.random.Generator | None = None,
    ) -> F32:
        """Gradient of each sample's own loss in training mode, f32[n, P]."""
        ...
