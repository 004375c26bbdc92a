"""What the locked worker costs: milliseconds of one training in it and in a thread of the node, side by side.

Both give the same integers; that is checked first. Run with: python -m benchmarks.sandbox
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import numpy as np
import torch
from benchmarks.machine import Machine
from torch import nn

from galaxylearning.graph import compile_model, weights_to_bytes
from galaxylearning.messages.plan import Plan
from galaxylearning.messages.terms import Admission, Column, EvaluatorSeat, Price, Schema, Terms, Windows
from galaxylearning.ports import Trainer
from galaxylearning.protocol.hidden_set import Rows
from galaxylearning.sandbox import Caps, LockedTrainer, ThreadTrainer
from galaxylearning.units import Address

ACCOUNT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
DIGEST = "00" * 32


@dataclass(frozen=True)
class Case:
    """A model, rows and steps."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    rows: int
    steps: int


def cases() -> list[Case]:
    """From a training of a millisecond to one of seconds."""
    mlp = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    cnn = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    wide = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 10))
    return [
        Case("MLP 64-32-10, 150 rows, 5 steps", mlp, (64,), 150, 5),
        Case("MLP 784-1024-10, 2,000 rows, 20 steps", wide, (784,), 2_000, 20),
        Case("LeNet (62k), 600 rows, 60 steps", cnn, (1, 28, 28), 600, 60),
    ]


def terms_of(steps: int) -> Terms:
    """Terms of no job."""
    return Terms(
        title="benchmark",
        description="",
        requester=ACCOUNT,
        requester_key=DIGEST,
        evaluators=(EvaluatorSeat(ACCOUNT, DIGEST, DIGEST),),
        schema=Schema((Column("x", "number"),), Column("y", "category", classes=("a", "b"))),
        plan=Plan(rounds=1, steps=steps, batch_size=32, learning_rate=0.05),
        price=Price(token=ACCOUNT, bounty="1", fee_per_seat="1", target_gain=0.5),
        admission=Admission(),
        windows=Windows(1, 1, 1, 1, 1, 1, 1),
        graph=DIGEST,
        loss="cross_entropy",
        model=DIGEST,
        model_digest=DIGEST,
        test_set=DIGEST,
        test_set_digest=DIGEST,
        test_rows=128,
        seed=1,
    )


def _cpu_s(pid: int | None) -> float:
    """Seconds of CPU of this process, and of another with the children that it has waited for."""
    if pid is None:
        return time.process_time()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


async def _best_and_cpu_ms(
    work: Callable[[], Awaitable[object]], runs: int, pid: int | None
) -> tuple[float, float]:
    """Wall time, the best of some (what others do on the machine only adds), and CPU time, the mean."""
    times, before = [], _cpu_s(pid)
    for _ in range(runs):
        start = time.perf_counter()
        await work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times), 1000 * (_cpu_s(pid) - before) / runs


async def measure(case: Case, locked: LockedTrainer, runs: int) -> tuple[float, float, float, float]:
    """Milliseconds of wall and CPU time in a thread, and in the locked worker; checks that they agree."""
    torch.manual_seed(1)
    sample = torch.randn(3, *case.shape)
    graph, weights = compile_model(case.module, (sample,), loss="cross_entropy")
    document, state, terms = graph.to_bytes(), weights_to_bytes(graph, weights), terms_of(case.steps)
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(case.rows, *case.shape)).astype(np.float32)
    rows = Rows(inputs, rng.integers(0, 10, case.rows))

    async def train(trainer: Trainer) -> bytes:
        update, _ = await trainer.train(document, state, terms, rows, round_index=0, data_owner=ACCOUNT)
        return update.tobytes()

    thread = ThreadTrainer()
    if await train(thread) != await train(locked):
        raise SystemExit(f"{case.name}: the two updates differ")
    here = await _best_and_cpu_ms(lambda: train(thread), runs, None)
    there = await _best_and_cpu_ms(lambda: train(locked), runs, locked.pid)
    return (*here, *there)


async def report(runs: int) -> None:
    """Print the table."""
    start = time.perf_counter()
    async with LockedTrainer(Caps) as locked:
        ready = await locked.ready()
        started, cpu = time.perf_counter() - start, _cpu_s(locked.pid) - time.process_time()
        print(f"{Machine.here()}, load {os.getloadavg()[0]:.1f}")
        print(f"locked by {', '.join(ready.locks.layers)}")
        print(f"started once in {started:.1f} s, {cpu:.1f} s of CPU")
        print(f"{'ms of one training, ' + str(runs) + ' runs':40}{'wall, best':^24}{'CPU, mean':^24}")
        print(f"{'':40}" + 2 * f"{'thread':>8}{'locked':>8}{'more':>8}")
        for case in cases():
            wall, cpu_here, locked_wall, locked_cpu = await measure(case, locked, runs)
            pairs = ((wall, locked_wall), (cpu_here, locked_cpu))
            print(f"{case.name:40}" + "".join(f"{a:8.1f}{b:8.1f}{b - a:+8.1f}" for a, b in pairs))


def main() -> None:
    """``python -m benchmarks.sandbox``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="trainings of each kind")
    anyio.run(report, parser.parse_args().runs)


if __name__ == "__main__":
    main()
