"""Models from strangers: graphs, weights, hidden test sets, and a server's state."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.fuzz.documents import Mutate, edit, mutate_json, to_ascii_json
from benchmarks.fuzz.mutate import change_bytes
from benchmarks.fuzz.target import Target
from torch import nn

from galaxylearning.errors import DataRefused, GraphRefused, UpdateRefused
from galaxylearning.graph import ModelGraph, compile_model, meter, weights_from_bytes, weights_to_bytes
from galaxylearning.graph.dense_weights import dense_weights_from_bytes
from galaxylearning.learning.server import MOMENTS, ServerOptimizer, ServerState
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.protocol.rows import rows_from_bytes, rows_to_bytes

BATCH = 8


class Attention(nn.Module):
    """Embedding, attention, a mean over time, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores [n, 3] of tokens [n, t]."""
        scores: torch.Tensor = self.head(self.encoder(self.embed(tokens)).mean(1))
        return scores


def _graphs() -> list[tuple[ModelGraph, bytes]]:
    """Three compiled models, each with its weights."""
    torch.manual_seed(7)
    dense = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    pictures = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    examples: list[tuple[nn.Module, torch.Tensor]] = [
        (dense, torch.zeros(4, 8)),
        (pictures, torch.zeros(4, 1, 8, 8)),
        (Attention(), torch.zeros(4, 7, dtype=torch.int64)),
    ]
    found = []
    for module, example in examples:
        graph, state = compile_model(module, (example,), loss="cross_entropy")
        found.append((graph, weights_to_bytes(graph, state)))
    return found


def _read_graph(data: bytes) -> object:
    graph = ModelGraph.from_bytes(data)
    return meter(graph, BATCH)


def split_tensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of safetensors."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, data[8 + length :]


def join_tensors(header: Any, payload: bytes) -> bytes:
    """Safetensors of any header, padded as they are written."""
    text = to_ascii_json(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def mutate_tensors(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Header edited and written anew, or payload changed, or the bytes as they lie."""
    seed = rng.choice(seeds)
    kind = rng.random()
    if kind < 0.3:
        return change_bytes(rng, seed, seeds)
    header, payload = split_tensors(seed)
    if kind < 0.9:
        for _ in range(rng.choice((1, 1, 2, 3))):
            header = edit(rng, header, packed=False)
    if kind > 0.8:
        payload = change_bytes(rng, payload) if payload else b"\0"
    return join_tensors(header, payload)


def _hidden_sets() -> list[bytes]:
    rng = np.random.default_rng(3)
    tabular = Rows(rng.normal(size=(16, 5)).astype(np.float32), rng.integers(0, 3, 16))
    images = Rows(rng.normal(size=(16, 1, 4, 4)).astype(np.float32), np.zeros((16, 1), np.float32))
    tokens = Rows(rng.integers(0, 20, (16, 7)), rng.integers(0, 3, 16))
    return [rows_to_bytes(rows) for rows in (tabular, images, tokens)]


def _server_states() -> list[bytes]:
    return [ServerOptimizer(name).init(5).to_bytes() for name in MOMENTS]


def _weights(graph: ModelGraph, data: bytes, mutate: Mutate, number: int) -> list[Target]:
    readers: dict[str, Callable[..., object]] = {
        "weights": weights_from_bytes,
        "dense weights": dense_weights_from_bytes,
    }
    return [
        Target(
            f"{name} {number}",
            [data],
            partial(lambda read, given: read(graph, given, max_bytes=len(data) + 1024), read),
            (GraphRefused,),
            mutate,
        )
        for name, read in readers.items()
    ]


def targets() -> list[Target]:
    """All of them."""
    graphs = _graphs()
    documents = [graph.to_bytes() for graph, _ in graphs]
    found = [Target("graph", documents, _read_graph, (GraphRefused,), mutate_json(to_ascii_json), share=12.0)]
    for number, (graph, data) in enumerate(graphs):
        found += _weights(graph, data, mutate_tensors, number)
    return [
        *found,
        Target(
            "hidden test set",
            _hidden_sets(),
            lambda data: rows_from_bytes(data, n_rows=16),
            (DataRefused,),
            mutate_tensors,
            share=3.0,
        ),
        Target("server state", _server_states(), ServerState.from_bytes, (UpdateRefused,)),
    ]
