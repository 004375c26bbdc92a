"""byzfl's answers to inputs in a file: run by its own environment's Python, knows nothing of this package.

Run as: PYTHON oracle_byzfl.py INPUTS.npz ANSWERS.npz
"""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np


def aggregators():
    """byzfl's aggregators and preaggregators; the package as a whole would import torchvision."""
    found = importlib.util.find_spec("byzfl")
    package = types.ModuleType("byzfl")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["byzfl"] = package
    import byzfl.aggregators

    return byzfl.aggregators


def answer(made, rule: str, rows: np.ndarray, faulty: int, radius: float, seed: int) -> np.ndarray:
    """One rule on rows f64[m, P]. byzfl's Krum counts m - f - 1 neighbours, the paper m - f - 2."""
    if rule == "mean":
        return made.Average()(rows)
    if rule == "trimmed-mean":
        return made.TrMean(faulty)(rows)
    if rule == "median":
        return made.Median()(rows)
    if rule == "krum":
        return made.Krum(faulty + 1)(rows)
    if rule == "multi-krum":
        return made.MultiKrum(faulty + 1)(rows)
    if rule == "geometric-median":
        return made.GeometricMedian(nu=1.0, T=32)(rows)
    if rule == "centred-clipping":
        return made.CenteredClipping(L=3, tau=radius)(rows)
    if rule == "nnm+trimmed-mean":
        return made.TrMean(faulty)(made.NNM(faulty)(rows))
    # Twice the buckets: distances below one unit count as one there as here.
    np.random.seed(seed)
    return made.GeometricMedian(nu=1.0, T=32)(2 * made.Bucketing(2)(rows)) / 2


def main() -> None:
    """Answer everything in the file."""
    made = aggregators()
    given, answers = np.load(sys.argv[1]), {}
    for key in given["keys"]:
        rule, _ = key.split("|")
        faulty, radius, seed = given[f"{key}|facts"].tolist()
        answers[key] = answer(made, rule, given[f"{key}|rows"], int(faulty), radius, int(seed))
    np.savez(sys.argv[2], **answers)


if __name__ == "__main__":
    main()
