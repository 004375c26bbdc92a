"""W2's arithmetic alone: a hand-written PyTorch loop in two processes, half of the owners in each.

Run as: python -m benchmarks.peers.bare_torch

Processes are forked once and share three tensors: the round's model and one sum for each. Steps are the least
that PyTorch lets one do: a forward pass, ``autograd.grad``, a subtraction in place; no module, no optimizer.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext

import torch
from benchmarks import data, workloads
from benchmarks.peers.say import say
from torch.nn import functional as F  # noqa: N812 (PyTorch's own custom)

PROCESSES = 2


def forward(weights: list[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """LeNet's logits [n, 10]; ``weights`` in the order of the workload's shapes."""
    maps = F.max_pool2d(F.relu(F.conv2d(inputs, weights[0], weights[1])), 2)
    maps = F.max_pool2d(F.relu(F.conv2d(maps, weights[2], weights[3])), 2)
    hidden = F.relu(F.linear(maps.flatten(1), weights[4], weights[5]))
    return F.linear(F.relu(F.linear(hidden, weights[6], weights[7])), weights[8], weights[9])


def views(flat: torch.Tensor, work: workloads.Workload) -> list[torch.Tensor]:
    """The parameters as views of one vector, in the order of the workload's shapes."""
    sizes = [torch.Size(shape) for _, shape in work.shapes]
    return [part.view(size) for part, size in zip(flat.split([s.numel() for s in sizes]), sizes, strict=True)]  # type: ignore[no-untyped-call]


def work_through(place: int, pipe: Connection, model: torch.Tensor, total: torch.Tensor) -> None:
    """One process: for each round, add the trained weights of every second owner to ``total``."""
    torch.set_num_threads(1)
    work, rows = workloads.W2, data.load(workloads.W2)
    own = torch.zeros_like(model)
    weights = [part.requires_grad_() for part in views(own, work)]
    for chosen in data.schedule(work):
        pipe.recv_bytes()
        total.zero_()
        for owner in chosen[place::PROCESSES].tolist():
            own.copy_(model)
            inputs, labels = map(torch.from_numpy, rows.owner(owner))
            for first in range(0, len(labels), work.batch_size):
                part = slice(first, first + work.batch_size)
                loss = F.cross_entropy(forward(weights, inputs[part]), labels[part])
                slopes = torch.autograd.grad(loss, weights)
                with torch.no_grad():
                    for weight, slope in zip(weights, slopes, strict=True):
                        weight.sub_(slope, alpha=work.learning_rate)
            total.add_(own)
        pipe.send_bytes(b"done")


def main() -> None:
    """Train all rounds and say what came out."""
    work = workloads.W2
    first = data.initial_weights(work)
    model = torch.cat([torch.from_numpy(first[name]).flatten() for name, _ in work.shapes]).share_memory_()  # type: ignore[no-untyped-call]
    totals = [torch.zeros_like(model).share_memory_() for _ in range(PROCESSES)]  # type: ignore[no-untyped-call]
    context = ForkContext()
    pipes = []
    for place, total in enumerate(totals):
        ours, theirs = context.Pipe()
        context.Process(target=work_through, args=(place, theirs, model, total), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    marks = [time.perf_counter()]
    for _ in range(work.rounds):
        for pipe in pipes:
            pipe.send_bytes(b"go")
        for pipe in pipes:
            pipe.recv_bytes()
        model.copy_(sum(totals) / work.per_round)
        marks.append(time.perf_counter())
    named = zip(work.shapes, views(model, work), strict=True)
    say(torch.__version__, marks, {name: part.numpy() for (name, _), part in named})


if __name__ == "__main__":
    main()
