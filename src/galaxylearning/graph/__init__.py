"""The model graph: a model that is data, compiled by a requester, checked, metered and run by strangers.

Importing this package does not import the compiler's front end; that happens in ``compile_model``.
"""

from galaxylearning.graph.compile import compile_model
from galaxylearning.graph.document import (
    DEFAULT_LIMITS,
    GraphLimits,
    Input,
    ModelGraph,
    Node,
    Ref,
    StateEntry,
)
from galaxylearning.graph.flat import FlatModel
from galaxylearning.graph.losses import LABEL_DTYPE, LOSSES, batch_loss, per_sample
from galaxylearning.graph.meter import Cost, meter
from galaxylearning.graph.program import Program
from galaxylearning.graph.weights import weights_from_bytes, weights_size, weights_to_bytes

__all__ = [
    "DEFAULT_LIMITS",
    "LABEL_DTYPE",
    "LOSSES",
    "Cost",
    "FlatModel",
    "GraphLimits",
    "Input",
    "ModelGraph",
    "Node",
    "Program",
    "Ref",
    "StateEntry",
    "batch_loss",
    "compile_model",
    "meter",
    "per_sample",
    "weights_from_bytes",
    "weights_size",
    "weights_to_bytes",
]
