"""Write what the measured programs read: the rows, and both models as a graph and weights.

Run as: python -m benchmarks.peers.prepare
"""

from __future__ import annotations

import numpy as np
import torch
from benchmarks import data, workloads
from benchmarks.peers.networks import network

from galaxylearning.graph import compile_model, weights_to_bytes

EXAMPLES = {"W1": (3, 64), "W2": (3, 3, 32, 32)}


def main() -> None:
    """Write everything under ``benchmarks/.cache``."""
    for work in workloads.WORKLOADS.values():
        folder = data.prepare(work)
        net = network(work, data.initial_weights(work))
        graph, weights = compile_model(net, (torch.zeros(EXAMPLES[work.name]),), loss="cross_entropy")
        (folder / "graph.json").write_bytes(graph.to_bytes())
        (folder / "weights.safetensors").write_bytes(weights_to_bytes(graph, weights))
        rows = data.load(work)
        counts = np.sort(rows.counts)
        print(
            f"{work.name}: {work.parameters:,} parameters, {work.owners} owners, {counts.sum():,} rows "
            f"({counts[0]} to {counts[-1]} an owner, median {np.median(counts):.0f}), "
            f"{work.rounds} rounds of {work.per_round} owners"
        )


if __name__ == "__main__":
    main()
