"""What a requester's own model reads off honest data owners: the limits that docs/threat-model.md names."""

from __future__ import annotations

import numpy as np
import torch
from benchmarks.things import SCHEMA, clouds
from numpy.typing import NDArray
from torch import nn

from galaxylearning.graph import FlatModel, compile_model
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol.rows import encode_rows
from galaxylearning.protocol.updates import quantizer, train_update
from plain_terms import terms_of

SIDE, OWNERS, ROWS = 24, 4, 48
PLAN = Plan(rounds=1, steps=1, batch_size=ROWS, learning_rate=1.0, clip_norm=1.0, bits=16)


class Cells(nn.Module):
    """A linear model of its own for each small cell of the inputs: most cells hold one row of one owner."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SIDE * SIDE, 2))
        self.bias = nn.Parameter(torch.zeros(SIDE * SIDE, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place = torch.floor((x.clamp(-2.4, 2.39) + 2.4) * (SIDE / 4.8))
        number = place[:, :1] * SIDE + place[:, 1:]
        here = torch.relu(1 - torch.abs(number - torch.arange(SIDE * SIDE, dtype=torch.float32)))
        score = (here @ self.weight * x).sum(1, keepdim=True) + here @ self.bias
        return torch.cat([score, -score], 1)


def test_a_sum_of_four_honest_updates_can_hold_rows_of_each() -> None:
    """Masking hides who said what, not what all said; only noise bounds that."""
    graph, weights = compile_model(Cells(), (torch.zeros(4, 2),), loss="cross_entropy")
    model, terms = FlatModel(graph, weights), terms_of(PLAN)
    rows = [encode_rows(SCHEMA, clouds(ROWS, seed=seed)) for seed in range(OWNERS)]
    updates = [
        train_update(model, terms, model.initial(), mine, rng=np.random.default_rng(0))[0] for mine in rows
    ]
    summed: NDArray[np.int64] = np.stack(updates).astype(np.int64).sum(axis=0)
    total = quantizer(PLAN).dequantize(summed, OWNERS)
    bias, weight = total[: SIDE * SIDE], total[SIDE * SIDE :].reshape(-1, 2)
    moved = np.flatnonzero(bias)
    guesses = weight[moved] / bias[moved, None]
    true = np.concatenate([mine.inputs for mine in rows])
    errors = np.array([np.abs(true - guess).max(axis=1).min() for guess in guesses])
    assert int((errors < 0.01).sum()) > len(true) // 2
