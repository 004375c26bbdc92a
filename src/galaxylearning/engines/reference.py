"""The reference: one data owner at a time, as a data owner's node trains. Every engine is held to it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.engines.cohort import Cohort, owner_rng
from galaxylearning.engines.engine import Trained, Training
from galaxylearning.errors import ConfigRefused, UpdateRefused
from galaxylearning.graph.model import ExampleModel, Model
from galaxylearning.learning.local import LocalResult, train_local
from galaxylearning.learning.private import train_private
from galaxylearning.learning.vectors import F32, I64
from galaxylearning.protocol.gradients import example_gradients, mean_gradient

EXAMPLES = 0xD95D
"""Sets the simulated entropy of noisy training apart from others made of the same numbers."""


class ReferenceEngine:
    """Implements ``Engine`` over any ``Model``."""

    name = "reference"

    def __init__(
        self, model: Model, cohort: Cohort, training: Training, *, examples: ExampleModel | None = None
    ) -> None:
        """``examples`` is the same model where the training has noise."""
        self._model, self._cohort, self._training = model, cohort, training
        self._examples = examples

    def train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        """See ``Engine.train``; one owner at a time."""
        self._cohort.require_owners(owners)
        for owner in owners.tolist():
            try:
                found = self.train_one(params, buffers, owner, round_index)
            except UpdateRefused as refused:
                yield failed(owner, params.size, buffers.size, str(refused))
            else:
                yield Trained(
                    np.array([owner], np.int64),
                    found.update[None],
                    found.buffers[None],
                    np.array([found.steps], np.int64),
                    np.array([[found.first_loss, found.last_loss]]),
                )

    def train_one(self, params: F32, buffers: F32, owner: int, round_index: int) -> LocalResult:
        """Train one data owner.

        Raises:
            UpdateRefused: training diverged; the step is named.
        """
        rows, model = self._cohort.rows(owner), self._model
        rng = owner_rng(self._training.seed, round_index, self._cohort.identities[owner])
        if self._training.noise is not None:
            return self._train_private(params, buffers, owner, round_index, rng)
        gradient = mean_gradient(model, rows)
        return train_local(gradient, params, buffers, len(rows), self._training.plan, rng=rng)

    def _train_private(
        self, params: F32, buffers: F32, owner: int, round_index: int, rng: np.random.Generator
    ) -> LocalResult:
        rows, model, training = self._cohort.rows(owner), self._examples, self._training
        if model is None or training.noise is None:
            raise ConfigRefused("cannot take gradients of single examples", where="engine reference")
        return train_private(
            example_gradients(model, rows),
            params,
            buffers,
            len(rows),
            training.plan,
            training.noise,
            rng=rng,
            entropy=seeded_entropy(training.seed, round_index, self._cohort.identities[owner], EXAMPLES),
        )

    def close(self) -> None:
        """Nothing is held."""


def failed(owner: int, parameters: int, buffers: int, reason: str) -> Trained:
    """What is given for a data owner whose training failed."""
    return Trained(
        np.array([owner], np.int64),
        np.zeros((1, parameters), np.float32),
        np.zeros((1, buffers), np.float32),
        np.zeros(1, np.int64),
        np.full((1, 2), np.nan),
        {owner: reason},
    )
