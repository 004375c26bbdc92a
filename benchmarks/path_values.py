"""Time the path-integrated values of one round: many owners, a large model, updates that stream by.

Updates arrive as chunks of int16 rows and are never held together. The hidden-set gradient is that of a
dense network of one hidden layer, computed here in numpy, so the figure holds all that a round's values cost.

Run with: python benchmarks/path_values.py [--owners 1000] [--parameters 1000000] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxylearning.contribution import PathScorer
from galaxylearning.learning.exact import Spread, one_by_one

F64 = npt.NDArray[np.float64]
I16 = npt.NDArray[np.int16]

INPUTS, CLASSES, BLOCKS, ROWS = 64, 10, 8, 256
CHUNK_ROWS = 64
LEVELS = 2**15 - 1


@dataclass(frozen=True, slots=True)
class Network:
    """A dense network 64 - hidden - 10 and a hidden set of 256 rows in 8 blocks."""

    hidden: int
    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parameters: int, *, rng: np.random.Generator) -> Network:
        """The network with about this many parameters, at least one hidden unit."""
        hidden = max(1, (parameters - CLASSES) // (INPUTS + 1 + CLASSES))
        rows = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
        return cls(hidden, rows, rng.integers(0, CLASSES, ROWS))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.hidden * (INPUTS + 1 + CLASSES) + CLASSES

    def gradients(self, params: F64) -> F64:
        """Mean cross-entropy gradient of every block, f64[8, P]."""
        h = self.hidden
        first, bias, second, last = np.split(
            params.astype(np.float32), np.cumsum([INPUTS * h, h, CLASSES * h])
        )
        first, second = first.reshape(h, INPUTS), second.reshape(CLASSES, h)
        found = np.empty((BLOCKS, self.size))
        for block, rows, labels in zip(
            found, np.split(self.rows, BLOCKS), np.split(self.labels, BLOCKS), strict=True
        ):
            middle = np.maximum(rows @ first.T + bias, 0)
            logits = middle @ second.T + last
            logits -= logits.max(axis=1, keepdims=True)
            error = np.exp(logits)
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(labels)), labels] -= 1
            error /= len(labels)
            back = (error @ second) * (middle > 0)
            parts = (back.T @ rows, back.sum(axis=0), error.T @ middle, error.sum(axis=0))
            at = 0
            for part in parts:
                block[at : at + part.size] = part.ravel()
                at += part.size
        return found


def stream(pool: I16, owners: int) -> Iterator[I16]:
    """Chunks of updates of ``owners`` in all, out of a pool that no cache holds."""
    for low in range(0, owners, CHUNK_ROWS):
        yield pool[: min(CHUNK_ROWS, owners - low)]


def measure(*, owners: int, parameters: int, threads: int = 2, repeats: int = 5) -> dict[str, Any]:
    """One row: seconds of a round's values, gradient and products, and the process's peak in 10^6 bytes.

    The checksum is the sum of the absolute values in nats; the law that they add up to the gain is checked.
    """
    rng = np.random.default_rng(0)
    network = Network.of(parameters, rng=rng)
    start = rng.normal(size=network.size) / math.sqrt(INPUTS)
    pool = rng.integers(-LEVELS, LEVELS, (CHUNK_ROWS, network.size), dtype=np.int16)
    shares, unit = np.full(owners, 1.0 / owners), 1e-3 / LEVELS
    step = np.zeros(network.size)
    for chunk in stream(pool, owners):
        for row in chunk:
            step += row
    step *= unit / owners
    seconds: list[tuple[float, float]] = []
    with ThreadPoolExecutor(threads) as workers:
        spread: Spread = workers.map if threads > 1 else one_by_one
        for _ in range(repeats):
            begun = time.perf_counter()
            scorer = PathScorer(network.gradients, start, step, update_bits=16)
            between = time.perf_counter()
            found = scorer.values(stream(pool, owners), shares, unit=unit, spread=spread)
            seconds.append((between - begun, time.perf_counter() - between))
            del scorer
    total, gain = float(found.values.sum()), found.gain_estimate
    if abs(total - gain) > 1e-6 * float(np.abs(found.values).sum()):
        raise SystemExit(f"the values add up to {total}, the gain is {gain}")
    rounds = [gradient + products for gradient, products in seconds]
    return {
        "work": f"path-values-{owners}x{network.size}",
        "system": "galaxy",
        "version": version("galaxy-learning"),
        "round_seconds_best": min(rounds),
        "round_seconds_median": statistics.median(rounds),
        "process_seconds": time.process_time(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "checksum": float(np.abs(found.values).sum()),
        "load": os.getloadavg()[0],
        "gradient_seconds_best": min(gradient for gradient, _ in seconds),
        "products_seconds_best": min(products for _, products in seconds),
        "threads": threads,
        "repeats": repeats,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--owners", type=int, default=1000)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args()
    if min(given.owners, given.parameters, given.threads, given.repeats) < 1:
        parser.error("owners, parameters, threads and repeats must be at least 1")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if os.environ.get(name) != "1":
            # Threads are those of the pool: the library's own, fixed when it is loaded, would fight them.
            os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {name: "1"})
    row = measure(
        owners=given.owners, parameters=given.parameters, threads=given.threads, repeats=given.repeats
    )
    if given.format == "json":
        print(json.dumps([row], indent=2))
        return
    print(f"{row['work']} ({row['threads']} threads, load {row['load']:.1f})")
    print(f"  round     best {row['round_seconds_best']:.2f} s, median {row['round_seconds_median']:.2f} s")
    print(f"  gradient  best {row['gradient_seconds_best']:.2f} s")
    print(f"  products  best {row['products_seconds_best']:.2f} s")
    print(f"  peak      {row['peak_mb']:.0f} MB")


if __name__ == "__main__":
    main()
