"""What is trained: scikit-learn's digits dealt out to twenty data owners, as rows and as small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from galaxylearning.engines.cohort import Cohort
from galaxylearning.graph import FlatModel, ModelGraph, compile_model
from galaxylearning.graph.dense_model import DenseModel
from galaxylearning.graph.model import Model
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.simulation.partition import parse_partitioner
from galaxylearning.simulation.sources import owners_from

OWNERS = 20
CLASSES = 10
HIDDEN_ROWS = 200
"""The requester's hidden test set; its gating half gives the reference step."""

JUDGED_ROWS = 400
"""What accuracy is measured on: nobody trains or gates with these rows."""

Data = Literal["digits-mlp", "digits-cnn"]
PLANS: dict[Data, Plan] = {
    "digits-mlp": Plan(
        rounds=25,
        steps=10,
        batch_size=24,
        learning_rate=0.2,
        clip_norm=4.0,
        maximum_owners=OWNERS,
    ),
    "digits-cnn": Plan(
        rounds=40,
        steps=8,
        batch_size=16,
        learning_rate=0.3,
        clip_norm=4.0,
        maximum_owners=OWNERS,
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One federation before anybody attacks: the model, who has which rows, and what is held back."""

    data: Data
    partition: str
    seed: int
    graph: ModelGraph
    weights: bytes
    model: Model
    plan: Plan
    cohort: Cohort
    hidden: HiddenSet
    judged: Rows


def make_case(data: Data, partition: str, seed: int) -> Case:
    """Deal out the digits; ``partition`` is ``iid`` or a partitioner's text, ``seed`` decides all else."""
    inputs, labels = load_digits(return_X_y=True)
    pixels = (inputs / 16).astype(np.float32)
    if data == "digits-cnn":
        pixels = pixels.reshape(-1, 1, 8, 8)
    order = np.random.default_rng([seed, 0xD161]).permutation(len(labels))
    rows = Rows(pixels[order], labels[order].astype(np.int64))
    cut = (HIDDEN_ROWS, HIDDEN_ROWS + JUDGED_ROWS)
    hidden, judged, trained = (
        rows.take(part) for part in np.split(np.arange(len(rows), dtype=np.int64), cut)
    )
    dealer = parse_partitioner(
        partition if partition == "iid" else f"{partition},seed={seed}",
        num_partitions=OWNERS,
        partition_by="label",
    )
    graph, model, weights = _network(data, seed, pixels[:3])
    return Case(
        data,
        partition,
        seed,
        graph,
        weights,
        model,
        PLANS[data],
        owners_from(trained, {"label": trained.labels}, dealer),
        HiddenSet.split(hidden, seed=seed),
        judged,
    )


def _network(data: Data, seed: int, example: np.ndarray) -> tuple[ModelGraph, Model, bytes]:
    torch.manual_seed(seed)
    if data == "digits-mlp":
        module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    else:
        module = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, CLASSES),
        )
    graph, weights = compile_model(module, (torch.from_numpy(example),), loss="cross_entropy")
    flat = FlatModel(graph, weights)
    state = flat.state_bytes(*flat.initial())
    if data == "digits-mlp":
        return (
            graph,
            DenseModel(graph, {name: tensor.detach().numpy() for name, tensor in weights.items()}),
            state,
        )
    return graph, flat, state
