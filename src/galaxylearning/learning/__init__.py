"""Arrays in, arrays out: local training, clipping, quantisation, the gate, aggregation, server optimisers."""

from galaxylearning.learning.aggregate import aggregate
from galaxylearning.learning.gate import GateTable, gate, gate_scalars, projected_squares
from galaxylearning.learning.local import GradientFunction, LocalResult, train_local
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.quantise import (
    Quantizer,
    check_range,
    clip_norm,
    decode_update,
    encode_update,
    finite_rows,
    quantise_rows,
)
from galaxylearning.learning.server import ServerOptimizer, ServerState
from galaxylearning.learning.standing import Standings
from galaxylearning.learning.updates import UpdateMatrix

__all__ = [
    "GateTable",
    "GradientFunction",
    "LocalPlan",
    "LocalResult",
    "Quantizer",
    "ServerOptimizer",
    "ServerState",
    "Standings",
    "UpdateMatrix",
    "aggregate",
    "check_range",
    "clip_norm",
    "decode_update",
    "encode_update",
    "finite_rows",
    "gate",
    "gate_scalars",
    "projected_squares",
    "quantise_rows",
    "train_local",
]
