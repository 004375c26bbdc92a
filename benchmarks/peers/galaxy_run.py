"""The workloads on Galaxy Learning's engines, without a chain: training and weighted averages.

Run as: python -m benchmarks.peers.galaxy_run W1|W2

The dense model goes to the stacked engine, which needs no tensor library, the convolutions to one worker
process per core: what measurement at the start of a simulation chooses as well.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from benchmarks import data, workloads
from benchmarks.peers.say import say

from galaxylearning import __version__
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.document import DEFAULT_LIMITS
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows

NO_BUFFERS = np.zeros(0, np.float32)


def engine_for(work: workloads.Workload, cohort: Cohort) -> Engine:
    """The engine that suits ``work``, over the model that was prepared."""
    folder = workloads.CACHE / work.name
    graph = read_graph((folder / "graph.json").read_bytes(), DEFAULT_LIMITS)
    weights = (folder / "weights.safetensors").read_bytes()
    plan = LocalPlan(learning_rate=work.learning_rate, epochs=1, batch_size=work.batch_size, order="stored")
    training = Training(plan, seed=0)
    if work.name == "W1":
        from galaxylearning.engines.stacked import StackedEngine
        from galaxylearning.graph.dense import DenseProgram
        from galaxylearning.graph.dense_weights import dense_weights_from_bytes

        program = DenseProgram.of(graph)
        if program is None:
            raise SystemExit(f"not dense: {DenseProgram.why_not(graph)}")
        return StackedEngine(program, dense_weights_from_bytes(graph, weights), cohort, training)
    from galaxylearning.engines.workers import WorkerEngine

    return WorkerEngine(graph, weights, cohort, training, workers=2)


def main(name: str) -> None:
    """Train by the workload's schedule and say what came out."""
    work = workloads.WORKLOADS[name]
    rows = data.load(work)
    cohort = Cohort(Rows(rows.inputs, rows.labels), np.arange(len(rows.labels), dtype=np.int64), rows.offsets)
    engine = engine_for(work, cohort)
    params = data.flat_weights(data.initial_weights(work))
    marks = [time.perf_counter()]
    for round_index, chosen in enumerate(data.schedule(work)):
        shares = (rows.counts[chosen] / rows.counts[chosen].sum()).astype(np.float32)
        step, done = np.zeros_like(params), 0
        for trained in engine.train(params, NO_BUFFERS, chosen, round_index):
            if trained.failures:
                raise SystemExit(f"round {round_index}: {dict(trained.failures)}")
            step += shares[done : done + len(trained.owners)] @ trained.updates
            done += len(trained.owners)
        params = params + step
        marks.append(time.perf_counter())
    engine.close()
    say(__version__, marks, data.named_weights(work, params), engine=engine.name)


if __name__ == "__main__":
    main(sys.argv[1])
