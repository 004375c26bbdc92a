"""Training in a thread of the node: the graph is checked, metered and interpreted; no code of anybody runs.

For simulations and demonstrations, where nobody is a stranger: it starts nothing and shares one process. A
data owner's node trains in a locked worker (``locked``). Knows neither chain nor store.
"""

from __future__ import annotations

import os

import anyio.to_thread
import numpy as np
import torch
from numpy.typing import NDArray

from galaxylearning.graph import FlatModel, ModelGraph, weights_from_bytes
from galaxylearning.messages.terms import Terms
from galaxylearning.ports import Checkpoints, GraphFacts
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.updates import train_for_owner, training_name, training_seed
from galaxylearning.sandbox.facts import facts_of
from galaxylearning.sandbox.local_buffers import LocalBuffers
from galaxylearning.units import Address, Digest, Entropy

KEPT_MODELS = 4


class ThreadTrainer:
    """Implements ``ports.Trainer``; one update at a time. A job's graph is prepared once and kept."""

    def __init__(self, entropy: Entropy = os.urandom, *, checkpoints: Checkpoints | None = None) -> None:
        """``entropy`` is what noise is made of, where the plan asks for noise.

        A long training saves where it stands in ``checkpoints``, and goes on from what it finds there.
        """
        self._checkpoints = checkpoints
        self._entropy = entropy
        torch.set_num_threads(1)
        self._models: dict[tuple[bytes, Digest], tuple[FlatModel, bytes]] = {}
        self._local = LocalBuffers(checkpoints)
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def measure(self, graph: bytes, *, batch_size: int) -> GraphFacts:
        """See ``ports.Trainer.measure``."""
        return facts_of(ModelGraph.from_bytes(graph), batch_size)

    async def train(
        self, graph: bytes, state: bytes, terms: Terms, rows: Rows, *, round_index: int, data_owner: Address
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """See ``ports.Trainer.train``."""

        def work() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
            model, initial = self._model(graph, state, terms.digest)
            if initial:
                before = self._local.before(terms, round_index, data_owner, size=len(initial))
                model.restore_local(before or initial)
            update = train_for_owner(
                model,
                terms,
                model.from_state_bytes(state),
                rows,
                rng=training_seed(terms, round_index, data_owner),
                entropy=self._entropy,
                checkpoint=None
                if self._checkpoints is None
                else self._checkpoints.of(training_name(terms, round_index, data_owner)),
                local=model,
            )
            if initial:
                self._local.keep(terms, round_index, data_owner, model.local_bytes())
            return update

        return await anyio.to_thread.run_sync(work, limiter=self._one_at_a_time)

    def _model(self, graph: bytes, state: bytes, job: Digest) -> tuple[FlatModel, bytes]:
        """The job's model and its local buffers at first; two jobs of one graph share nothing."""
        if (graph, job) not in self._models:
            if len(self._models) >= KEPT_MODELS:
                self._models.pop(next(iter(self._models)))
            parsed = ModelGraph.from_bytes(graph)
            weights = weights_from_bytes(parsed, state, max_bytes=len(state))
            model = FlatModel(parsed, weights)
            self._models[graph, job] = model, model.local_bytes()
        return self._models[graph, job]
