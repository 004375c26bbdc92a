"""What training asks of a model, on the rows of a data owner: batches by row numbers in, gradients out."""

from __future__ import annotations

import numpy as np

from galaxylearning.graph.model import ExampleModel, Model
from galaxylearning.learning.local import GradientFunction
from galaxylearning.learning.private import ExampleGradients
from galaxylearning.learning.vectors import F32, I64
from galaxylearning.protocol.hidden_set import Rows


def mean_gradient(model: Model, rows: Rows) -> GradientFunction:
    """Mean loss of a batch of ``rows``, its gradient f32[P], the buffers after the pass f32[B]."""

    def gradient(params: F32, buffers: F32, batch: I64, rng: np.random.Generator) -> tuple[float, F32, F32]:
        part = rows.take(batch)
        return model.gradient(params, buffers, (part.inputs,), part.labels, rng=rng)

    return gradient


def example_gradients(model: ExampleModel, rows: Rows) -> ExampleGradients:
    """The gradient of the loss of each row of a batch of ``rows``, f32[b, P]."""

    def gradients(params: F32, buffers: F32, batch: I64, rng: np.random.Generator) -> F32:
        part = rows.take(batch)
        return model.example_gradients(params, buffers, (part.inputs,), part.labels, rng=rng)

    return gradients
