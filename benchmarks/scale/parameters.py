"""An MLP 64-h-h-10 of about as many parameters as asked, trained by four data owners for one step a round.

Run as: python -m benchmarks.scale.parameters PARAMETERS [--rounds N] [--threads N] [--budget-mib N]

The graph is written down here, so that no tensor library is loaded for it. The stacked engine runs it.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise

import numpy as np
from benchmarks.data import F32
from benchmarks.peers.say import say

from galaxylearning import __version__
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Training
from galaxylearning.engines.stacked import StackedEngine
from galaxylearning.graph.dense import DenseProgram
from galaxylearning.graph.document import VERSION, Input, ModelGraph, Node, Ref, StateEntry
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.protocol.hidden_set import Rows

OWNERS, ROWS, INPUTS, CLASSES = 4, 16, 64, 10


def width(parameters: int) -> int:
    """The h for which 64-h-h-10 with biases has about so many parameters: h*h + 76h + 10."""
    linear = INPUTS + CLASSES + 2
    return max(1, round((math.sqrt(linear**2 + 4 * (parameters - CLASSES)) - linear) / 2))


def network(hidden: int) -> ModelGraph:
    """The graph of the MLP, ReLU between its layers."""
    sizes = (INPUTS, hidden, hidden, CLASSES)
    state: list[StateEntry] = []
    nodes: list[Node] = []
    last = Ref("input", "inputs")
    for layer, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        shapes = {f"fc{layer}.bias": (outputs,), f"fc{layer}.weight": (outputs, inputs)}
        state += [StateEntry(n, "parameter", True, "mean", "float32", s) for n, s in shapes.items()]
        weights = (Ref("state", f"fc{layer}.weight"), Ref("state", f"fc{layer}.bias"))
        nodes.append(Node(f"linear_{len(nodes)}", "aten.linear.default", (last, *weights)))
        last = Ref("node", nodes[-1].name)
        if layer < len(sizes) - 1:
            nodes.append(Node(f"relu_{len(nodes)}", "aten.relu.default", (last,)))
            last = Ref("node", nodes[-1].name)
    given = (Input("inputs", "float32", (None, INPUTS)),)
    return ModelGraph(VERSION, given, tuple(state), tuple(nodes), (last,), "cross_entropy")


def first_weights(graph: ModelGraph) -> dict[str, F32]:
    """Normal weights by the root of the inputs, biases of zero."""
    rng = np.random.default_rng(1)
    return {
        entry.name: np.zeros(entry.shape, np.float32)
        if len(entry.shape) == 1
        else rng.standard_normal(entry.shape, dtype=np.float32) / np.float32(math.sqrt(entry.shape[1]))
        for entry in graph.state
    }


def main() -> None:
    """Train and say what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.parameters", description=__doc__)
    parser.add_argument("parameters", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-mib", type=float, default=256)
    given = parser.parse_args()
    graph = network(width(int(given.parameters)))
    program = DenseProgram.of(graph)
    if program is None:
        raise SystemExit(f"not dense: {DenseProgram.why_not(graph)}")
    rng = np.random.default_rng(0)
    owned = [
        Rows(rng.standard_normal((ROWS, INPUTS), dtype=np.float32), rng.integers(0, CLASSES, ROWS))
        for _ in range(OWNERS)
    ]
    plan = LocalPlan(learning_rate=0.01, steps=1, batch_size=ROWS, order="stored")
    weights = first_weights(graph)
    params = np.concatenate([weights[entry.name].ravel() for entry in graph.state])
    engine = StackedEngine(
        program,
        weights,
        Cohort.of(owned),
        Training(plan, seed=0),
        budget_mib=given.budget_mib,
        threads=given.threads,
    )
    marks = [time.perf_counter()]
    for round_index in range(given.rounds):
        step = np.zeros_like(params)
        for trained in engine.train(params, np.zeros(0, np.float32), np.arange(OWNERS), round_index):
            if trained.failures:
                raise SystemExit(f"round {round_index}: {dict(trained.failures)}")
            for update in trained.updates:
                step += update
        step /= OWNERS
        params += step
        marks.append(time.perf_counter())
    engine.close()
    say(__version__, marks, {"params": params}, parameters=params.size, owners=OWNERS)


if __name__ == "__main__":
    main()
