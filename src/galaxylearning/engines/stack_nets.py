"""Which graphs can be computed as stacks of models, and by what."""

from __future__ import annotations

from galaxylearning.engines.dense_stacks import DenseStacks
from galaxylearning.engines.layered import LayeredNet
from galaxylearning.engines.stacks import StackNet
from galaxylearning.graph.model import Model
from galaxylearning.learning.vectors import F32


def stack_net(model: Model, buffers: F32) -> StackNet | None:
    """The model's graph for stacks of models, all with ``buffers`` f32[B]; None if it is not dense."""
    return LayeredNet.of(model.graph) or DenseStacks.of(model, buffers)
