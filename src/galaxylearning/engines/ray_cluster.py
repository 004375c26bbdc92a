"""Training, or any function, spread over a Ray cluster; results do not depend on the number of workers.

Data owners are cut into chunks by their position alone, and a chunk gives the same bytes wherever it is
trained: so neither the number of workers nor the death of one changes a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Engine, Trained, Training
from galaxylearning.engines.memory import MIB, require_budget
from galaxylearning.engines.ray_crew import MAX_DEATHS, Lost, RayCrew, resolve
from galaxylearning.engines.reference import ReferenceEngine, failed
from galaxylearning.errors import ConfigRefused
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.document import DEFAULT_LIMITS, ModelGraph
from galaxylearning.learning.vectors import F32, I64, require_integer, require_number
from galaxylearning.protocol.hidden_set import Rows

Inner: TypeAlias = Literal["stacked", "reference"]

_OWNERS_PER_CHUNK = {"stacked": 128, "reference": 8}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How every worker makes the engine inside: its kind, graph and weights as bytes, its budget in MiB."""

    inner: Inner
    graph: bytes
    weights: bytes
    budget_mib: float

    @classmethod
    def of(cls, graph: ModelGraph, weights: bytes, *, budget_mib: float = 256.0) -> Recipe:
        """The stacked engine for dense graphs, the reference for all others."""
        from galaxylearning.graph.dense import DenseProgram

        inner: Inner = "reference" if DenseProgram.of(graph) is None else "stacked"
        return cls(inner, graph.to_bytes(), weights, budget_mib)

    def build(self, cohort: Cohort, training: Training) -> Engine:
        """The engine inside.

        Raises:
            GraphRefused, ConfigRefused, DataRefused: as that engine.
        """
        graph = read_graph(self.graph, DEFAULT_LIMITS)
        if self.inner == "stacked":
            from galaxylearning.engines.stacked import StackedEngine
            from galaxylearning.graph.dense import DenseProgram, dense_weights_from_bytes

            program = DenseProgram.of(graph)
            if program is None:
                raise ConfigRefused("the graph is not dense", where="engine stacked")
            held = dense_weights_from_bytes(graph, self.weights)
            return StackedEngine(program, held, cohort, training, budget_mib=self.budget_mib)
        from galaxylearning.graph.flat import FlatModel
        from galaxylearning.graph.weights import weights_from_bytes, weights_size

        tensors = weights_from_bytes(graph, self.weights, max_bytes=weights_size(graph))
        return ReferenceEngine(FlatModel(graph, tensors), cohort, training)


_Parts: TypeAlias = tuple[F32, F32, I64, Any, dict[int, str]]


class Trainer:
    """What a worker calls: trains the data owners of one chunk."""

    def __init__(
        self,
        recipe: Recipe,
        training: Training,
        inputs: Any,
        labels: Any,
        index: I64,
        offsets: I64,
        identities: Sequence[int],
    ) -> None:
        cohort = Cohort(Rows(inputs, labels), index, offsets, identities)
        self._engine = recipe.build(cohort, training)

    def __call__(self, state: tuple[F32, F32, int], owners: I64) -> _Parts:
        """(updates, buffers, steps, losses, failures) of ``owners``."""
        params, buffers, round_index = state
        updates = np.empty((len(owners), params.size), np.float32)
        after = np.empty((len(owners), buffers.size), np.float32)
        steps, losses = np.empty(len(owners), np.int64), np.empty((len(owners), 2))
        failures: dict[int, str] = {}
        start = 0
        for found in self._engine.train(params, buffers, owners, round_index):
            end = start + len(found.owners)
            updates[start:end], after[start:end] = found.updates, found.buffers
            steps[start:end], losses[start:end] = found.steps, found.losses
            failures.update(found.failures)
            start = end
        return updates, after, steps, losses, failures


class RayEngine:
    """Implements ``Engine``: chunks of data owners over Ray actors that each hold the recipe's engine.

    The cohort's rows are sent once to every machine. A chunk whose worker dies is trained again by another;
    if it ends three, its data owners are trained one at a time, and one that ends its worker again is in
    ``failures``. ``budget_mib`` bounds a chunk's results; each worker has the recipe's budget beside it.

    Raises:
        ConfigRefused: Ray is not installed or has no cluster at ``address``; a buffer stays with its data
            owner, whom no worker is tied to; one data owner's result is larger than the budget.
    """

    name = "ray"

    def __init__(
        self,
        recipe: Recipe,
        cohort: Cohort,
        training: Training,
        *,
        workers: int = 2,
        address: str | None = None,
        budget_mib: float = 1024.0,
        owners_per_chunk: int | None = None,
        stall_s: float = 600.0,
    ) -> None:
        require_number(budget_mib, "budget_mib", low=0, high=1 << 30, low_open=True)
        if owners_per_chunk is not None:
            require_integer(owners_per_chunk, "owners_per_chunk", low=1, high=1 << 20)
        graph = read_graph(recipe.graph, DEFAULT_LIMITS)
        for entry in graph.state:
            if entry.federate == "keep_local":
                raise ConfigRefused(f"buffer {entry.name} stays with its data owner", where="engine ray")
        result = 4 * max(1, sum(entry.elements for entry in graph.state if entry.federate in ("mean", "sum")))
        budget = int(budget_mib * MIB)
        require_budget(result / MIB, budget_mib, "one data owner's result")
        # The cut depends on the budget alone, never on how many workers there are: it shows in rounding.
        most = owners_per_chunk or _OWNERS_PER_CHUNK[recipe.inner]
        self._chunk = max(1, min(most, budget // 16 // result))
        ahead = min(2 * workers + 2, budget // (self._chunk * result))
        self._cohort = cohort
        pool = cohort.pool
        values = (pool.inputs, pool.labels, cohort.index, cohort.offsets, tuple(cohort.identities))
        store = 2 * (pool.inputs.nbytes + pool.labels.nbytes + cohort.index.nbytes)
        self._crew = RayCrew(
            f"{__name__}:Trainer",
            (recipe, training),
            values,
            workers=workers,
            address=address,
            store_bytes=store + 2 * ahead * self._chunk * result,
            ahead=ahead,
            stall_s=stall_s,
        )

    @property
    def processes(self) -> list[int]:
        """Process numbers of the workers, once each has done what it is at."""
        return self._crew.processes

    def train(self, params: F32, buffers: F32, owners: I64, round_index: int) -> Iterator[Trained]:
        """See ``Engine.train``."""
        self._cohort.require_owners(owners)
        state = (params, buffers, round_index)
        chunks = [owners[start : start + self._chunk] for start in range(0, len(owners), self._chunk)]
        for chunk, parts in zip(chunks, self._crew.run(state, chunks), strict=True):
            if not isinstance(parts, Lost):
                yield Trained(chunk, *parts)
                continue
            singles = [chunk[place : place + 1] for place in range(len(chunk))] if len(chunk) > 1 else []
            for owner, alone in zip(singles, list(self._crew.run(state, singles)), strict=True):
                if isinstance(alone, Lost):
                    yield _given_up(int(owner[0]), params, buffers, alone)
                else:
                    yield Trained(owner, *alone)
            if not singles:
                yield _given_up(int(chunk[0]), params, buffers, parts)

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        self._crew.close()


def ray_map(
    function: str,
    shared: Any,
    items: Sequence[Any],
    *,
    workers: int,
    address: str | None = None,
    stall_s: float = 600.0,
) -> Iterator[Any]:
    """``function(shared, item)`` of every item in order, computed by Ray workers.

    ``function`` is ``package.module:name``, importable on every worker; ``shared`` and items are arrays or
    anything else that can be pickled, and ``shared`` is sent once to every machine.

    Raises:
        ConfigRefused: Ray is not installed, there is no such function, or an item ended its worker
            ``MAX_DEATHS`` times.
        Exception: what the function raised.
    """
    resolve(function)
    crew = RayCrew(f"{__name__}:resolve", (function,), workers=workers, address=address, stall_s=stall_s)
    try:
        for place, answer in enumerate(crew.run(shared, items)):
            if isinstance(answer, Lost):
                raise ConfigRefused(
                    f"ended its worker {MAX_DEATHS} times ({answer.reason})", where=f"item {place}"
                )
            yield answer
    finally:
        crew.close()


def _given_up(owner: int, params: F32, buffers: F32, lost: Lost) -> Trained:
    reason = f"ended its worker {MAX_DEATHS} times ({lost.reason})"
    return failed(owner, params.size, buffers.size, reason)
