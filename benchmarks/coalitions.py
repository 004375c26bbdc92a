"""Time the exact values of a round from all its coalitions, and exact values by retraining every coalition.

Digits cut over n data owners by Dirichlet(0.5), an MLP 64-32-10, 360 hidden rows. ``coalitions-n`` is one
round: all 2**n coalition models, their utilities, Shapley values. ``retraining-10`` trains 1,023 federations
of 10 rounds (one epoch, batches of 32, rate 0.5) and values their owners. Every case has its own process, so
that its peak memory is its own; results are checked against a few coalitions taken one at a time.

Run with: python benchmarks/coalitions.py [--quick] [--threads 2] [--format json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from galaxylearning.contribution.games import shapley_from_worths
from galaxylearning.engines.coalitions import CoalitionEvaluator
from galaxylearning.engines.cohort import Cohort
from galaxylearning.engines.engine import Training
from galaxylearning.engines.reference import ReferenceEngine
from galaxylearning.engines.retraining import retraining_worths
from galaxylearning.graph.dense import DenseModel
from galaxylearning.graph.document import Input, ModelGraph, Node, Ref, StateEntry
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.vectors import F32, F64
from galaxylearning.protocol.hidden_set import Rows

ROOT = Path(__file__).parent.parent
OWNERS = range(4, 15)
RETRAINED, ROUNDS, CLIP = 10, 10, 20.0
PLAN = LocalPlan(learning_rate=0.5, epochs=1, batch_size=32, order="stored")
SEED, SAMPLED = 3, 5
TOLERANCE = 1e-3
"""Two ways of rounding end within 1e-6 nats of each other, but for about one coalition in a thousand: a unit
that is just about to be rectified may go either way, and ten rounds at this rate make 1e-4 nats of it."""

_QUICK_MOST = 6


def network() -> DenseModel:
    """An MLP 64-32-10 with the weights that a linear layer begins with."""
    shapes = {"0.bias": (32,), "0.weight": (32, 64), "2.bias": (10,), "2.weight": (10, 32)}
    state = tuple(StateEntry(n, "parameter", True, "mean", "float32", s) for n, s in shapes.items())

    def linear(name: str, rows: Ref, layer: str) -> Node:
        weights = Ref("state", f"{layer}.weight"), Ref("state", f"{layer}.bias")
        return Node(name, "aten.linear.default", (rows, *weights))

    nodes = (
        linear("first", Ref("input", "x"), "0"),
        Node("bent", "aten.relu.default", (Ref("node", "first"),)),
        linear("second", Ref("node", "bent"), "2"),
    )
    inputs = (Input("x", "float32", (None, 64)),)
    graph = ModelGraph(1, inputs, state, nodes, (Ref("node", "second"),), "cross_entropy")
    rng = np.random.default_rng(SEED)
    bounds = {"0": 1 / 8, "2": 1 / np.sqrt(32)}
    weights = {
        name: rng.uniform(-bounds[name[0]], bounds[name[0]], shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    return DenseModel(graph, weights)


def federation(owners: int) -> tuple[Cohort, Rows]:
    """The data owners' rows, and the hidden ones."""
    # Run as a script, this file's folder is on the path and the one above it is not.
    sys.path.insert(0, str(ROOT))
    from benchmarks.data import digits, dirichlet

    inputs, labels = digits()
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(labels))
    hidden, rest = order[:360], order[360:]
    parts = dirichlet(labels[rest], owners, alpha=0.5, rng=rng)
    pool = Rows(inputs[rest], labels[rest])
    return Cohort.of([pool.take(part) for part in parts]), Rows(inputs[hidden], labels[hidden])


def one_round(owners: int, threads: int) -> tuple[Callable[[], F64], Callable[[int], float]]:
    """What gives the worths of a round's coalitions, and what gives one of them by the model itself."""
    model, (cohort, hidden) = network(), federation(owners)
    params, buffers = model.initial()
    engine = ReferenceEngine(model, cohort, Training(PLAN, SEED))
    trained = engine.train(params, buffers, np.arange(owners), 0)
    updates: F32 = np.concatenate([one.updates for one in trained])
    evaluator = CoalitionEvaluator(model, hidden, loss_clip=CLIP, threads=threads)

    def alone(mask: int) -> float:
        inside = np.array([mask >> i & 1 for i in range(owners)], np.float64)
        point = params + inside / owners @ updates.astype(np.float64)
        losses = model.per_sample_loss(point.astype(np.float32), buffers, (hidden.inputs,), hidden.labels)
        return -float(np.minimum(losses, CLIP).mean())

    return lambda: evaluator.worths(params, updates), alone


def retraining(owners: int, threads: int) -> tuple[Callable[[], F64], Callable[[int], float]]:
    """What gives the worths of all retrained coalitions, and what retrains one of them owner by owner."""
    model, (cohort, hidden) = network(), federation(owners)
    training = Training(PLAN, SEED)

    def alone(mask: int) -> float:
        members = [i for i in range(owners) if mask >> i & 1]
        part = Cohort.of([cohort.rows(i) for i in members], identities=members)
        engine = ReferenceEngine(model, part, training)
        params, buffers = model.initial()
        shares = part.counts / part.counts.sum()
        for round_index in range(ROUNDS):
            found = engine.train(params, buffers, np.arange(len(members)), round_index)
            updates = np.concatenate([one.updates for one in found])
            params = (params + shares @ updates.astype(np.float64)).astype(np.float32)
        losses = model.per_sample_loss(params, buffers, (hidden.inputs,), hidden.labels)
        return -float(np.minimum(losses, CLIP).mean())

    def all_of_them() -> F64:
        return retraining_worths(
            model, cohort, training, hidden, rounds=ROUNDS, loss_clip=CLIP, threads=threads
        )

    return all_of_them, alone


def measure(case: str, *, threads: int, repeats: int) -> dict[str, Any]:
    """One row: seconds of the worths and their Shapley values, peak in 10^6 bytes, sum of absolute values."""
    kind, _, count = case.rpartition("-")
    owners = int(count)
    worths_of, alone = (one_round if kind == "coalitions" else retraining)(owners, threads)
    seconds, worths, values = [], np.empty(0), np.empty(0)
    for _ in range(repeats):
        begun = time.perf_counter()
        worths = worths_of()
        values = shapley_from_worths(worths)
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    rng = np.random.default_rng(SEED)
    for mask in [(1 << owners) - 1, *rng.integers(1, 1 << owners, SAMPLED).tolist()]:
        expected = alone(mask)
        if abs(worths[mask] - expected) > TOLERANCE:
            raise SystemExit(f"coalition {mask:b} is worth {worths[mask]}, by itself {expected}")
    if abs(values.sum() - (worths[-1] - worths[0])) > 1e-9:
        raise SystemExit("the values do not add up to what all owners reach together")
    return {
        "work": case,
        "system": "galaxy",
        "version": version("galaxy-learning"),
        "round_seconds_best": min(seconds),
        "round_seconds_median": statistics.median(seconds),
        "process_seconds": time.process_time(),
        "peak_mb": peak,
        "checksum": float(np.abs(values).sum()),
        "load": os.getloadavg()[0],
        "threads": threads,
        "repeats": repeats,
    }


def rows(names: list[str], *, threads: int, repeats: int) -> list[dict[str, Any]]:
    """Every case in a process of its own, with one thread in the library that multiplies matrices."""
    found = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    options = ["--threads", str(threads), "--repeats", str(repeats), "--format", "json"]
    for name in names:
        command = [sys.executable, __file__, "--case", name, *options]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [*(f"coalitions-{n}" for n in OWNERS), f"retraining-{RETRAINED}"]
    parser.add_argument("--case", choices=names, help="this one only, in this process, as JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few coalitions, once, and no retraining")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args()
    if min(given.threads, given.repeats) < 1:
        parser.error("threads and repeats must be at least 1")
    if given.case:
        print(json.dumps(measure(given.case, threads=given.threads, repeats=given.repeats)))
        return
    chosen = names[: _QUICK_MOST - OWNERS.start + 1] if given.quick else names
    found = rows(chosen, threads=given.threads, repeats=1 if given.quick else given.repeats)
    if given.format == "json":
        print(json.dumps(found, indent=2))
        return
    print(f"{given.threads} threads, load {found[-1]['load']:.1f}")
    for row in found:
        best, median = row["round_seconds_best"], row["round_seconds_median"]
        print(
            f"  {row['work']:<14} best {best:7.3f} s  median {median:7.3f} s  peak {row['peak_mb']:5.0f} MB"
        )


if __name__ == "__main__":
    main()
