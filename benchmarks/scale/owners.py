"""W1's model trained by any number of data owners of about 14 rows each, all of them in every round.

Run as: python -m benchmarks.scale.owners OWNERS [--rounds N] [--threads N] [--budget-mib N | --whole-mib N]

The owners share the digits' rows: what grows is what an engine holds and does for each owner. With
``--whole-mib`` the engine gets what is left of a budget for the whole process, as a simulation gives it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from benchmarks import data
from benchmarks.peers.say import say
from benchmarks.workloads import CACHE, W1

from galaxylearning import __version__
from galaxylearning.engines.choose import choose_engine
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Engine, Training
from galaxylearning.engines.memory import available_mib
from galaxylearning.engines.stacked import StackedEngine
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.dense import DenseProgram, dense_weights_from_bytes
from galaxylearning.graph.document import DEFAULT_LIMITS
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows


def cohort_of(owners: int) -> Cohort:
    """Owners of W1's sizes, over and over, with rows drawn from W1's."""
    rows = data.load(W1)
    counts = np.resize(rows.counts, owners)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    index = np.random.default_rng(0).integers(0, len(rows.labels), int(offsets[-1]))
    return Cohort(Rows(rows.inputs, rows.labels), index, offsets)


def engine_for(cohort: Cohort, given: argparse.Namespace) -> Engine:
    """The stacked engine, within its own budget or what it gets of the whole process's."""
    graph = read_graph((CACHE / "W1" / "graph.json").read_bytes(), DEFAULT_LIMITS)
    weights = (CACHE / "W1" / "weights.safetensors").read_bytes()
    plan = LocalPlan(learning_rate=W1.learning_rate, epochs=1, batch_size=W1.batch_size, order="stored")
    training = Training(plan, seed=0)
    if given.whole_mib is not None:
        return choose_engine(
            graph,
            weights,
            cohort,
            training,
            wanted="stacked",
            budget_mib=available_mib(given.whole_mib),
            workers=given.threads,
            report=lambda _line: None,
        )
    program = DenseProgram.of(graph)
    if program is None:
        raise SystemExit(f"not dense: {DenseProgram.why_not(graph)}")
    arrays = dense_weights_from_bytes(graph, weights)
    return StackedEngine(
        program, arrays, cohort, training, budget_mib=given.budget_mib, threads=given.threads
    )


def main() -> None:
    """Train and say what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.owners", description=__doc__)
    parser.add_argument("owners", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-mib", type=float, default=256)
    parser.add_argument("--whole-mib", type=float, default=None)
    given = parser.parse_args()
    cohort = cohort_of(given.owners)
    engine = engine_for(cohort, given)
    params, everybody = data.flat_weights(data.initial_weights(W1)), np.arange(given.owners)
    shares = (cohort.counts / cohort.counts.sum()).astype(np.float32)
    marks = [time.perf_counter()]
    for round_index in range(given.rounds):
        step, done = np.zeros_like(params), 0
        for trained in engine.train(params, np.zeros(0, np.float32), everybody, round_index):
            if trained.failures:
                raise SystemExit(f"round {round_index}: {dict(trained.failures)}")
            step += shares[done : done + len(trained.owners)] @ trained.updates
            done += len(trained.owners)
        params = params + step
        marks.append(time.perf_counter())
    engine.close()
    say(__version__, marks, {"params": params}, owners=given.owners, rows=int(cohort.counts.sum()))


if __name__ == "__main__":
    main()
