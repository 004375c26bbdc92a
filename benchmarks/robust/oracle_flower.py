"""Flower's answers to inputs in a file: run by its own environment's Python, knows nothing of this package.

Run as: PYTHON oracle_flower.py INPUTS.npz ANSWERS.npz
"""

from __future__ import annotations

import sys

import numpy as np
from flwr.server.strategy.aggregate import aggregate_bulyan, aggregate_krum


def main() -> None:
    """Answer everything in the file."""
    given, answers = np.load(sys.argv[1]), {}
    for key in given["keys"]:
        faulty = int(given[f"{key}|facts"][0])
        results = [([row], 1) for row in given[f"{key}|rows"]]
        if key.startswith("krum"):
            answers[key] = aggregate_krum(results, faulty, 0)[0]
        else:
            answers[key] = aggregate_bulyan(results, faulty, aggregate_krum, to_keep=0)[0]
    np.savez(sys.argv[2], **answers)


if __name__ == "__main__":
    main()
