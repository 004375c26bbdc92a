"""W1's arithmetic alone, written by hand in numpy for this one network: what an engine's overhead is held to.

Run as: python -m benchmarks.peers.bare_dense

All owners are stacked; each step's batches are padded to the longest of them, and owners stand in order of
their number of steps, so that those still training are always the first ones.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from benchmarks import data, workloads
from benchmarks.data import F32
from benchmarks.peers.say import say


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of the first ``m`` owners: inputs [m, k, 64], one-hot labels, and 1/rows of each real row."""

    inputs: F32
    turned: F32
    truth: F32
    share: F32


def steps(work: workloads.Workload, rows: data.Rows) -> tuple[list[Step], F32]:
    """All steps of a round and every owner's part of the rows, owners with most steps first."""
    needed = -(-rows.counts // work.batch_size)
    order = np.argsort(-needed, kind="stable")
    found = []
    for step in range(int(needed.max())):
        members = order[: int((needed > step).sum())]
        first = rows.offsets[members] + step * work.batch_size
        sizes = np.minimum(rows.offsets[members + 1] - first, work.batch_size)
        inputs = np.zeros((len(members), int(sizes.max()), 64), np.float32)
        truth = np.zeros((*inputs.shape[:2], 10), np.float32)
        share = np.zeros((*inputs.shape[:2], 1), np.float32)
        for place, (start, size) in enumerate(zip(first.tolist(), sizes.tolist(), strict=True)):
            inputs[place, :size] = rows.inputs[start : start + size]
            truth[place, np.arange(size), rows.labels[start : start + size]] = 1
            share[place, :size] = 1 / size
        turned = np.ascontiguousarray(inputs.transpose(0, 2, 1))
        found.append(Step(inputs, turned, truth, share))
    return found, (rows.counts[order] / rows.counts.sum()).astype(np.float32)


def train_round(plan: list[Step], start: list[F32], rate: np.float32) -> list[F32]:
    """Every owner's weights after its steps: [owners, ...] for each of the four parameters."""
    own: list[F32] = []
    for number, step in enumerate(plan):
        m, k, _ = step.inputs.shape
        w1, b1, w2, b2 = [part[:m] for part in own] if own else start
        if number == 0:  # all owners still have the same weights: plain products over all rows
            hidden = (step.inputs.reshape(m * k, 64) @ w1 + b1).reshape(m, k, 32)
            np.maximum(hidden, 0, out=hidden)
            out = (hidden.reshape(m * k, 32) @ w2 + b2).reshape(m, k, 10)
        else:
            hidden = step.inputs @ w1
            hidden += b1[:, None]
            np.maximum(hidden, 0, out=hidden)
            out = hidden @ w2
            out += b2[:, None]
        out -= out.max(2, keepdims=True)
        np.exp(out, out=out)
        out /= out.sum(2, keepdims=True)
        out -= step.truth
        out *= step.share
        back = (out.reshape(m * k, 10) @ w2.T).reshape(m, k, 32) if number == 0 else out @ w2.swapaxes(1, 2)
        back *= hidden > 0
        slopes = [step.turned @ back, back.sum(1), hidden.transpose(0, 2, 1) @ out, out.sum(1)]
        for slope in slopes:
            slope *= rate
        if number == 0:
            own = [part - slope for part, slope in zip(start, slopes, strict=True)]
        else:
            for part, slope in zip((w1, b1, w2, b2), slopes, strict=True):
                part -= slope
    return own


def main() -> None:
    """Train all rounds and say what came out."""
    work = workloads.W1
    plan, shares = steps(work, data.load(work))
    first = data.initial_weights(work)
    weights = [
        first["fc1.weight"].T.copy(),
        first["fc1.bias"],
        first["fc2.weight"].T.copy(),
        first["fc2.bias"],
    ]
    marks = [time.perf_counter()]
    for _ in range(work.rounds):
        own = train_round(plan, weights, np.float32(work.learning_rate))
        weights = [np.tensordot(shares, part, 1) for part in own]
        marks.append(time.perf_counter())
    names = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    say(np.__version__, marks, {name: part.T for name, part in zip(names, weights, strict=True)})


if __name__ == "__main__":
    main()
