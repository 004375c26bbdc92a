"""Arrays in, arrays out: local training, clipping, quantisation, the gate, aggregation, server optimisers."""

from galaxylearning.learning.aggregate import aggregate
from galaxylearning.learning.gate import GateDecision, gate
from galaxylearning.learning.local import GradientFunction, LocalResult, train_local
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.quantise import Quantizer, check_range, clip_norm, decode_update, encode_update
from galaxylearning.learning.server import ServerOptimizer, ServerState

__all__ = [
    "GateDecision",
    "GradientFunction",
    "LocalPlan",
    "LocalResult",
    "Quantizer",
    "ServerOptimizer",
    "ServerState",
    "aggregate",
    "check_range",
    "clip_norm",
    "decode_update",
    "encode_update",
    "gate",
    "train_local",
]
