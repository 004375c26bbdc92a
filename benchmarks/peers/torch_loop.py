"""The loop anybody would write in PyTorch: one owner after the other, one thread, weights averaged by rows.

Run as: python -m benchmarks.peers.torch_loop W1|W2
"""

from __future__ import annotations

import sys
import time

import torch
from benchmarks import data, workloads
from benchmarks.peers.networks import network
from benchmarks.peers.say import say
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)


def main(name: str) -> None:
    """Train by the workload's schedule and say what came out."""
    torch.set_num_threads(1)
    work = workloads.WORKLOADS[name]
    rows = data.load(work)
    net = network(work, data.initial_weights(work))
    optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
    owned = [tuple(map(torch.from_numpy, rows.owner(owner))) for owner in range(work.owners)]
    start = {key: value.clone() for key, value in net.state_dict().items()}
    marks = [time.perf_counter()]
    for chosen in data.schedule(work):
        total = sum(len(owned[owner][1]) for owner in chosen)
        mean = {key: torch.zeros_like(value) for key, value in start.items()}
        for owner in chosen:
            inputs, labels = owned[owner]
            net.load_state_dict(start)
            for first in range(0, len(labels), work.batch_size):
                part = slice(first, first + work.batch_size)
                optimizer.zero_grad()
                F.cross_entropy(net(inputs[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            for key, value in net.state_dict().items():
                mean[key].add_(value, alpha=len(labels) / total)
        start = mean
        marks.append(time.perf_counter())
    say(torch.__version__, marks, {key: value.numpy() for key, value in start.items()})


if __name__ == "__main__":
    main(sys.argv[1])
