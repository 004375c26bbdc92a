"""Graphs, cohorts and results for whatever is said of training engines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from architectures import BUILDERS, CLASSES
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Engine, Trained, Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.graph import (
    FlatModel,
    ModelGraph,
    compile_model,
    weights_from_bytes,
    weights_size,
    weights_to_bytes,
)
from galaxylearning.learning.vectors import I64
from galaxylearning.protocol.hidden_set import Rows


@cache
def compiled(name: str) -> tuple[ModelGraph, bytes]:
    """The architecture of that name with weights that are always the same."""
    build, inputs = BUILDERS[name]
    torch.manual_seed(7)
    graph, weights = compile_model(build(), (inputs(4),), loss="cross_entropy")
    return graph, weights_to_bytes(graph, weights)


def flat_model(name: str) -> FlatModel:
    """The architecture as the reference runs it."""
    graph, weights = compiled(name)
    return FlatModel(graph, weights_from_bytes(graph, weights, max_bytes=weights_size(graph)))


def cohort_of(name: str, counts: Sequence[int], seed: int = 1) -> Cohort:
    """Data owners with so many rows each, over a pool in which their rows lie in no order."""
    inputs = BUILDERS[name][1](sum(counts)).numpy()
    rng = np.random.default_rng(seed)
    pool = Rows(inputs, rng.integers(0, CLASSES, len(inputs)))
    index = rng.permutation(len(inputs)).astype(np.int64)
    return Cohort(pool, index, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def everyone(cohort: Cohort) -> I64:
    """All owners of a cohort, in order."""
    return np.arange(len(cohort), dtype=np.int64)


def trained(engine: Engine, name: str, owners: I64, round_index: int = 0) -> Trained:
    """Everything an engine gives for one round from the initial weights, joined."""
    params, buffers = flat_model(name).initial()
    parts = [
        Trained(
            found.owners.copy(),
            found.updates.copy(),
            np.array(found.buffers),
            found.steps.copy(),
            found.losses.copy(),
            dict(found.failures),
        )
        for found in engine.train(params, buffers, owners, round_index)
    ]
    failures = {owner: reason for part in parts for owner, reason in part.failures.items()}
    owners, updates, after, steps, losses = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("owners", "updates", "buffers", "steps", "losses")
    )
    return Trained(owners, updates, after, steps, losses, failures)


def reference(name: str, cohort: Cohort, training: Training) -> ReferenceEngine:
    """The engine that all others are held to."""
    return ReferenceEngine(flat_model(name), cohort, training)


def same_bytes(one: Trained, other: Trained) -> bool:
    """Whether two results are the same to the last bit."""
    return one.failures == other.failures and all(
        getattr(one, field).tobytes() == getattr(other, field).tobytes()
        for field in ("owners", "updates", "buffers", "steps", "losses")
    )
