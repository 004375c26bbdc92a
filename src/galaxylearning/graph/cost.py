"""What a graph costs, for admission and for pricing; worked out from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

from galaxylearning.graph.document import DEFAULT_LIMITS, GraphLimits, ModelGraph
from galaxylearning.graph.infer import infer

MAX_BATCH = 1 << 20


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one forward pass over one batch.

    ``parameters``: trainable elements, the length of an update. ``state_bytes``: everything the model
    carries. ``activation_bytes``: all intermediate results together, views left out (what training holds at
    its peak, about). ``largest_tensor_bytes``: the largest single tensor. ``flops_forward``: a multiply-add
    counts as two.
    """

    parameters: int
    state_bytes: int
    activation_bytes: int
    largest_tensor_bytes: int
    flops_forward: int


def meter(graph: ModelGraph, batch: int, limits: GraphLimits = DEFAULT_LIMITS) -> Cost:
    """Cost of the graph at ``batch`` samples; allocates nothing, takes time in proportion to the nodes.

    Raises:
        GraphRefused: the graph is not sound or exceeds ``limits`` at this batch size.
        ValueError: ``batch`` is not in [1, 2^20].
    """
    if isinstance(batch, bool) or not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"batch must be in [1, {MAX_BATCH}]")
    trace = infer(graph, batch, limits)
    parameters = sum(entry.elements for entry in graph.state if entry.trainable)
    return Cost(
        parameters, trace.state_bytes, trace.activation_bytes, trace.largest_tensor_bytes, trace.flops
    )
