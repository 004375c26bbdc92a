"""A small net, its cohort and its results, for the workers engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Trained
from galaxylearning.graph import FlatModel, ModelGraph, compile_model, weights_from_bytes, weights_to_bytes
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows

PLAN = LocalPlan(learning_rate=0.1, momentum=0.9, epochs=2, batch_size=4)
COUNTS = (7, 1, 12, 4, 9, 3)


class Net(nn.Module):
    """Every kind of state and chance: batch statistics, dropout, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 16, 3)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))
        return out


def cohort(counts: tuple[int, ...] = COUNTS, seed: int = 3) -> Cohort:
    """Data owners with so many images each."""
    rng = np.random.default_rng(seed)
    return Cohort.of(
        [
            Rows(rng.normal(size=(n, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, n).astype(np.int16))
            for n in counts
        ],
        identities=[2**159 + i for i in range(len(counts))],
    )


def compiled_net() -> tuple[ModelGraph, bytes]:
    """The net with weights that are always the same."""
    torch.manual_seed(2)
    graph, weights = compile_model(Net(), (torch.randn(4, 1, 6, 6),), loss="cross_entropy")
    return graph, weights_to_bytes(graph, weights)


def model(made: tuple[ModelGraph, bytes]) -> FlatModel:
    """The net as the reference runs it."""
    graph, data = made
    return FlatModel(graph, weights_from_bytes(graph, data, max_bytes=len(data)))


def everything(results: Iterator[Trained]) -> list[tuple[int, bytes, bytes, int, bytes, str | None]]:
    """All that was given, owner by owner, to the byte."""
    return [
        (
            owner,
            found.updates[i].tobytes(),
            found.buffers[i].tobytes(),
            int(found.steps[i]),
            found.losses[i].tobytes(),
            found.failures.get(owner),
        )
        for found in results
        for i, owner in enumerate(found.owners.tolist())
    ]


def numbers(*owners: int) -> np.ndarray:
    """Positions of data owners or rows."""
    return np.array(owners, np.int64)
