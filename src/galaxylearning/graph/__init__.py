"""The model graph: a model that is data, compiled by a requester, checked, metered and run by strangers.

Names are loaded when they are first asked for: whoever only reads a graph imports no tensor library, and only
``compile_model`` imports the compiler's front end.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galaxylearning.graph.compile import compile_model
    from galaxylearning.graph.cost import Cost, meter
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
    from galaxylearning.graph.labels import LABEL_DTYPE
    from galaxylearning.graph.losses import LOSSES, batch_loss, per_sample
    from galaxylearning.graph.model import Model
    from galaxylearning.graph.program import Program
    from galaxylearning.graph.weights import weights_from_bytes, weights_size, weights_to_bytes

_HOMES = {
    "DEFAULT_LIMITS": "document",
    "LABEL_DTYPE": "labels",
    "LOSSES": "losses",
    "Cost": "cost",
    "FlatModel": "flat",
    "GraphLimits": "document",
    "Input": "document",
    "Model": "model",
    "ModelGraph": "document",
    "Node": "document",
    "Program": "program",
    "Ref": "document",
    "StateEntry": "document",
    "batch_loss": "losses",
    "compile_model": "compile",
    "meter": "cost",
    "per_sample": "losses",
    "weights_from_bytes": "weights",
    "weights_size": "weights",
    "weights_to_bytes": "weights",
}

__all__ = [
    "DEFAULT_LIMITS",
    "LABEL_DTYPE",
    "LOSSES",
    "Cost",
    "FlatModel",
    "GraphLimits",
    "Input",
    "Model",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
