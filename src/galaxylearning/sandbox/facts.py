"""What a worker tells of a graph it has measured: a handful of numbers."""

from __future__ import annotations

import struct
from typing import Final

from galaxylearning.graph.cost import Cost, meter
from galaxylearning.graph.document import ModelGraph
from galaxylearning.graph.weights import weights_size
from galaxylearning.ports import GraphFacts

_FACTS: Final = struct.Struct("<8q")
_MOST: Final = 2**63 - 1
FACTS_BYTES: Final = _FACTS.size


def facts_of(graph: ModelGraph, batch_size: int) -> GraphFacts:
    """What a node needs to know of a graph.

    Raises:
        GraphRefused: the graph is not sound at this batch size.
    """
    local = sum(entry.bytes for entry in graph.state if entry.federate == "keep_local")
    buffers = sum(
        entry.elements
        for entry in graph.state
        if entry.kind == "buffer" and entry.federate in ("mean", "sum")
    )
    return GraphFacts(meter(graph, batch_size), buffers, weights_size(graph), local)


def facts_to_bytes(facts: GraphFacts) -> bytes:
    """What was found out about a graph, as numbers."""
    cost = facts.cost
    numbers = (
        cost.parameters,
        cost.state_bytes,
        cost.activation_bytes,
        cost.largest_tensor_bytes,
        cost.flops_forward,
        facts.buffers,
        facts.weights_bytes,
        facts.local_bytes,
    )
    return _FACTS.pack(*(min(number, _MOST) for number in numbers))


def facts_from_bytes(data: bytes) -> GraphFacts | None:
    """Read ``facts_to_bytes`` back; None where a number is below zero."""
    numbers = _FACTS.unpack(data)
    if min(numbers) < 0:
        return None
    return GraphFacts(Cost(*numbers[:5]), *numbers[5:])
