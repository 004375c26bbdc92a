"""What the vmapped engine checks and lays out before it trains: device, rows, labels, state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.optimisers import Tensors
from galaxylearning.errors import ConfigRefused, DataRefused, GalaxyError
from galaxylearning.graph.document import DEFAULT_LIMITS, ModelGraph
from galaxylearning.graph.infer import infer
from galaxylearning.graph.labels import prepare_labels
from galaxylearning.learning.vectors import F32


class StateLayout:
    """Which of a graph's state is trained, loaded or fixed, and where it lies in the flat vectors."""

    def __init__(self, graph: ModelGraph) -> None:
        self._trained = [entry for entry in graph.state if entry.trainable]
        self._loaded = [e for e in graph.state if e.kind == "buffer" and e.federate in ("mean", "sum")]
        moving = {entry.name for entry in (*self._trained, *self._loaded)}
        self._fixed = [entry.name for entry in graph.state if entry.name not in moving]
        self.parameters = sum(entry.elements for entry in self._trained)
        self.buffers = sum(entry.elements for entry in self._loaded)
        self.state_bytes = sum(entry.bytes for entry in graph.state)

    def initial(self, weights: Mapping[str, torch.Tensor]) -> tuple[F32, F32]:
        """The initial parameters f32[P] and buffers f32[B]."""
        vectors = []
        for entries in (self._trained, self._loaded):
            parts = [weights[entry.name].detach().reshape(-1).numpy() for entry in entries]
            vectors.append(np.concatenate([np.empty(0, np.float32), *parts]))
        return vectors[0], vectors[1]

    def tensors(
        self, weights: Mapping[str, torch.Tensor], params: F32, buffers: F32, device: torch.device
    ) -> tuple[Tensors, Tensors]:
        """What is trained, and all other state, on the device."""
        fixed = {name: weights[name].detach().to(device) for name in self._fixed}
        trained: Tensors = {}
        for entries, vector, target in ((self._trained, params, trained), (self._loaded, buffers, fixed)):
            start = 0
            for entry in entries:
                piece = vector[start : start + entry.elements].reshape(entry.shape)
                target[entry.name] = torch.tensor(piece, device=device)
                start += entry.elements
        return trained, fixed


def device_of(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise ConfigRefused(f"{name!r} cannot be used ({reason})", where="device") from None
    return device


def checked_labels(graph: ModelGraph, cohort: Cohort) -> np.ndarray[Any, Any]:
    """The pool's labels as the loss takes them; those that no data owner has are zero."""
    wanted, inputs = graph.inputs[0], cohort.pool.inputs
    if inputs.dtype != wanted.dtype or inputs.shape[1:] != wanted.shape[1:]:
        shape = ", ".join(str(size) for size in wanted.shape[1:])
        raise DataRefused(
            f"rows must be {wanted.dtype} [n, {shape}], not {inputs.dtype} {list(inputs.shape)}",
            where=f"input {wanted.name}",
        )
    rest = infer(graph, 2, DEFAULT_LIMITS).output.shape[1:]
    used = np.unique(cohort.index)
    try:
        checked = prepare_labels(graph.loss, cohort.pool.labels[used], (len(used), *rest))
    except DataRefused as refused:
        raise _naming_owner(graph, cohort, rest, refused) from None
    labels = np.zeros((len(cohort.pool), *checked.shape[1:]), checked.dtype)
    labels[used] = checked
    return labels


def _naming_owner(
    graph: ModelGraph, cohort: Cohort, rest: tuple[int, ...], refused: GalaxyError
) -> GalaxyError:
    for owner in range(len(cohort)):
        rows = cohort.rows(owner)
        try:
            prepare_labels(graph.loss, rows.labels, (len(rows), *rest))
        except DataRefused as reason:
            return DataRefused(str(reason), where=f"owner {owner}")
    return refused
