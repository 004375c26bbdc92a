"""Dense models in numpy: one program, for one model or for many at once. Imports no tensor library.

A graph that only multiplies rows by weights and bends the results is read into a ``DenseProgram``; what runs
it for many data owners is ``engines.stacked``, what runs it as any model is ``DenseModel``.
"""

from __future__ import annotations

from galaxylearning.graph.dense_model import DenseModel
from galaxylearning.graph.dense_program import DenseProgram
from galaxylearning.graph.dense_weights import dense_weights_from_bytes, dense_weights_to_bytes

__all__ = [
    "DenseModel",
    "DenseProgram",
    "dense_weights_from_bytes",
    "dense_weights_to_bytes",
]
