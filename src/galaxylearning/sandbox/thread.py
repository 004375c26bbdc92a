"""Training in a thread of the node: the graph is checked, metered and interpreted; no code of anybody runs.

The graph of one job is prepared once and kept. Knows neither chain nor store.
"""

from __future__ import annotations

import os

import anyio.to_thread
import numpy as np
import torch
from numpy.typing import NDArray

from galaxylearning.graph import FlatModel, ModelGraph, weights_from_bytes
from galaxylearning.messages.terms import Terms
from galaxylearning.protocol.rounds import Rows, training_seed
from galaxylearning.protocol.updates import train_for_owner
from galaxylearning.units import Address, Entropy

KEPT_MODELS = 4


class ThreadTrainer:
    """Implements ``ports.Trainer``; one update at a time."""

    def __init__(self, entropy: Entropy = os.urandom) -> None:
        """``entropy`` is what noise is made of, where the plan asks for noise."""
        self._entropy = entropy
        torch.set_num_threads(1)
        self._models: dict[bytes, FlatModel] = {}
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """See ``ports.Trainer.train``."""

        def work() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
            model = self._model(graph, state)
            received = model.from_state_bytes(state)
            return train_for_owner(
                model,
                terms,
                received,
                rows,
                rng=training_seed(terms, round_index, data_owner),
                entropy=self._entropy,
            )

        return await anyio.to_thread.run_sync(work, limiter=self._one_at_a_time)

    def sizes(self, graph: bytes, state: bytes) -> tuple[int, int]:
        """How many numbers an update of this model has: parameters and buffers."""
        model = self._model(graph, state)
        return model.parameter_count, model.buffer_count

    def _model(self, graph: bytes, state: bytes) -> FlatModel:
        if graph not in self._models:
            if len(self._models) >= KEPT_MODELS:
                self._models.pop(next(iter(self._models)))
            parsed = ModelGraph.from_bytes(graph)
            self._models[graph] = FlatModel(parsed, weights_from_bytes(parsed, state, max_bytes=len(state)))
        return self._models[graph]
