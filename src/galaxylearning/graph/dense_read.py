"""From a model graph to dense operations.

A graph that was only decoded may name anything with any arguments: every one is checked here, for nobody else
has. What is not dense (another operation, another rank, another type) is a reason, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from galaxylearning.errors import GraphRefused
from galaxylearning.graph.dense_ops import Operation
from galaxylearning.graph.dense_reader import Activation, NotDenseError, Reader
from galaxylearning.graph.dense_rules import follow
from galaxylearning.graph.document import ModelGraph
from galaxylearning.graph.labels import CLASS_LOSSES


@dataclass(frozen=True, slots=True)
class Reading:
    """A graph as operations: ``widths`` are the features of each value, value 0 is the input."""

    operations: tuple[Operation, ...]
    widths: tuple[int, ...]
    output: int


def read_dense(graph: ModelGraph) -> Reading:
    """The graph's operations as dense ones, in their order.

    Raises:
        NotDenseError: the graph holds something else.
        GraphRefused: it contradicts itself; ``where`` is the node.
    """
    reader = Reader(graph)
    if len(graph.inputs) != 1:
        raise NotDenseError(f"the graph takes {len(graph.inputs)} inputs, not one")
    given = graph.inputs[0]
    shape = tuple(size for size in given.shape[1:] if size is not None)
    if given.dtype != "float32" or not shape or len(shape) + 1 != len(given.shape):
        raise NotDenseError(f"input {given.name} is not rows of float32")
    reader.values["input", given.name] = reader.new(shape)
    for index, node in enumerate(graph.nodes):
        where = f"nodes[{index}] {node.name}"
        if ("node", node.name) in reader.values:
            raise GraphRefused("the name is used twice", where=where)
        try:
            reader.values["node", node.name] = follow(reader, node)
        except GraphRefused as refused:
            raise GraphRefused(f"{node.op[:80]}: {str(refused)[:300]}", where=where) from None
        except NotDenseError as reason:
            raise NotDenseError(f"{where} ({node.op[:80]}): {reason}") from None
    output = reader.resolve(graph.outputs[0])
    if not isinstance(output, Activation) or len(output.shape) != 1:
        raise NotDenseError("the output is not [rows, features]")
    if graph.loss in CLASS_LOSSES and output.shape[0] < 2:
        raise GraphRefused(f"{graph.loss} needs outputs [n, classes >= 2]", where="outputs")
    return Reading(tuple(reader.operations), tuple(reader.widths), output.value)
