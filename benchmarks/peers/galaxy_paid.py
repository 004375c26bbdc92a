"""W1 with what makes a round payable: clipping, integers, the gate, path-integrated values, hidden losses.

Run as: python -m benchmarks.peers.galaxy_paid

No peer does any of it, and it changes the weights, so that this is a figure of its own: what being paid for
one's contribution costs on top of training.
"""

from __future__ import annotations

import time

import numpy as np
from benchmarks import data
from benchmarks.peers.galaxy_run import NO_BUFFERS, engine_for
from benchmarks.peers.say import say
from benchmarks.workloads import CACHE, W1

from galaxylearning import __version__
from galaxylearning.engines.cohort import Cohort
from galaxylearning.graph.decode import read_graph
from galaxylearning.graph.dense import DenseModel, dense_weights_from_bytes
from galaxylearning.graph.document import DEFAULT_LIMITS
from galaxylearning.learning import UpdateMatrix
from galaxylearning.learning.quantise import quantise_rows
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import (
    Admission,
    ArrayField,
    Column,
    EvaluatorSeat,
    Price,
    Schema,
    Terms,
    Windows,
)
from galaxylearning.protocol.hidden_set import HiddenSet, Rows
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import quantizer
from galaxylearning.units import Address

NOBODY, NOTHING = f"0x{1:040x}", "00" * 32
CLIP_NORM = 2.0


def terms() -> Terms:
    """W1 as a job; nobody's accounts are in it."""
    classes = tuple(str(digit) for digit in range(10))
    return Terms(
        title="W1",
        description="",
        requester=NOBODY,
        requester_key=NOTHING,
        evaluators=(EvaluatorSeat(NOBODY, NOTHING, NOTHING),),
        schema=Schema(
            (), Column("digit", "category", classes=classes), (ArrayField("inputs", (64,), "float32"),)
        ),
        plan=Plan(
            rounds=W1.rounds,
            learning_rate=W1.learning_rate,
            epochs=1,
            batch_size=W1.batch_size,
            clip_norm=CLIP_NORM,
            maximum_owners=W1.owners,
        ),
        price=Price(token=NOBODY, bounty="1000000", fee_per_seat="0", target_gain=2.0),
        admission=Admission(),
        windows=Windows(1, 1, 1, 1, 1, 1, 1),
        graph=NOTHING,
        loss="cross_entropy",
        model=NOTHING,
        model_digest=NOTHING,
        test_set=NOTHING,
        test_set_digest=NOTHING,
        test_rows=360,
        seed=0,
    )


def main() -> None:
    """Train, judge and value by the workload's schedule and say what came out."""
    rows = data.load(W1)
    cohort = Cohort(Rows(rows.inputs, rows.labels), np.arange(len(rows.labels), dtype=np.int64), rows.offsets)
    engine, agreed = engine_for(W1, cohort), terms()
    folder = CACHE / W1.name
    graph = read_graph((folder / "graph.json").read_bytes(), DEFAULT_LIMITS)
    model = DenseModel(graph, dense_weights_from_bytes(graph, (folder / "weights.safetensors").read_bytes()))
    hidden = HiddenSet.split(Rows(rows.test_inputs, rows.test_labels), seed=agreed.seed)
    job = JobComputation(agreed, 1, model, hidden, history="twins")
    accounts = tuple(Address(f"0x{owner + 2:040x}") for owner in range(W1.owners))
    levels, everybody = quantizer(agreed.plan, W1.parameters), np.arange(W1.owners)
    no_buffers = np.zeros((W1.owners, 0), np.int32)
    marks = [time.perf_counter()]
    for round_index in range(W1.rounds):
        updates, done = np.empty((W1.owners, W1.parameters), np.int16), 0
        for trained in engine.train(job.state.params, NO_BUFFERS, everybody, round_index):
            part = updates[done : done + len(trained.owners)]
            quantise_rows(trained.updates, levels, CLIP_NORM, out=part)
            done += len(part)
        job.advance_updates(UpdateMatrix(accounts, updates, no_buffers, agreed.plan.bits))
        marks.append(time.perf_counter())
    engine.close()
    accuracy = job.outcomes[-1].measured_after.correct / len(rows.test_labels)
    say(__version__, marks, data.named_weights(W1, job.state.params), accuracy=accuracy)


if __name__ == "__main__":
    main()
