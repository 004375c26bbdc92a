"""Every robust rule on thousands of random inputs, beside byzfl and Flower.

Run as: python -m benchmarks.robust.oracle [--cases N]

byzfl has neither Bulyan nor FLTrust; Flower has Bulyan. FLTrust and the gate are compared with the plain
loops of ``tests/oracles`` alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from galaxylearning.learning.exact import IntRows
from galaxylearning.learning.rules import RULES, apply_rule
from galaxylearning.learning.rules_distances import krum_selection, squared_distances

HERE = Path(__file__).parent
BYZFL = HERE.parent / ".venv-byzfl" / "bin" / "python"
FLOWER = HERE.parent / ".venv-flower" / "bin" / "python"
BY_BYZFL = (
    "mean",
    "trimmed-mean",
    "median",
    "krum",
    "multi-krum",
    "geometric-median",
    "centred-clipping",
    "nnm+trimmed-mean",
    "bucketing+geometric-median",
)
BY_FLOWER = ("krum", "bulyan")
CASES = 2000
TOLERANCE = 1e-4
"""Of the answer's norm: whole weights of 20 bits, and byzfl's products around distances."""


class Drawn(np.random.Generator):
    """A generator whose permutations are those of byzfl's seed, so that both fill the same buckets."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))
        self._legacy = np.random.RandomState(seed)

    def permutation(self, x: int) -> np.ndarray:  # type: ignore[override]
        """As ``numpy.random.seed(seed)`` and ``numpy.random.permutation`` give it."""
        return self._legacy.permutation(x)


def inputs(rule: str, number: int) -> tuple[IntRows, int]:
    """Random updates, some of them far away, and how many may be."""
    rng = np.random.default_rng([number, len(rule), 0x0AC1E])
    faulty = int(rng.integers(0, 4))
    count = RULES[rule].least(faulty) + int(rng.integers(1, 8))
    width, spread = int(rng.integers(3, 60)), float(rng.choice([50, 500, 5000]))
    rows = rng.normal(rng.normal(0, spread, width), spread, (count, width))
    rows[: faulty // 2 + 1] *= rng.normal(0, 4)
    if rule == "bulyan":
        # No two values as far from the median: there Flower takes any, the package the smaller one.
        return np.rint(rows * (1e8 / np.abs(rows).max())).astype(np.int32), faulty
    return np.clip(np.rint(rows), -32767, 32767).astype(np.int16), faulty


def ours(rule: str, rows: IntRows, faulty: int, number: int) -> np.ndarray:
    """The package's answer f64[P]; of Multi-Krum one fewer is kept, as byzfl does with one more neighbour."""
    if rule == "multi-krum":
        kept = krum_selection(squared_distances(rows), faulty, len(rows) - faulty - 1)
        return np.asarray(rows[kept].mean(axis=0))
    found = apply_rule(rule, rows, faulty=faulty, rng=Drawn(number))
    return found.total / found.divisor


def compare(python: Path, script: str, rules: tuple[str, ...], cases: int) -> dict[str, tuple[int, float]]:
    """By rule: how many answers differ, and the largest difference in parts of the answer's norm."""
    with tempfile.TemporaryDirectory() as folder:
        sent, got = Path(folder) / "inputs.npz", Path(folder) / "answers.npz"
        arrays: dict[str, np.ndarray] = {}
        keys = [f"{rule}|{number}" for rule in rules for number in range(cases)]
        for key in keys:
            rule, place = key.split("|")
            rows, faulty = inputs(rule, int(place))
            norms = np.sort(np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1)))
            arrays[f"{key}|rows"] = rows.astype(np.float64)
            arrays[f"{key}|facts"] = np.array([faulty, norms[(len(norms) - 1) // 2], int(place)])
        np.savez(sent, allow_pickle=False, keys=np.array(keys), **arrays)
        subprocess.run([python, HERE / script, sent, got], check=True)
        answers = np.load(got)
        found = {}
        for rule in rules:
            gaps = []
            for number in range(cases):
                rows, faulty = inputs(rule, number)
                theirs, own = answers[f"{rule}|{number}"], ours(rule, rows, faulty, number)
                gaps.append(np.linalg.norm(theirs - own) / max(1.0, float(np.linalg.norm(theirs))))
            found[rule] = (int((np.array(gaps) > TOLERANCE).sum()), float(max(gaps)))
    return found


def main() -> None:
    """Compare and say what came out; exit 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robust.oracle", description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    given = parser.parse_args()
    differing = 0
    for peer, python, script, rules in (
        ("byzfl", BYZFL, "oracle_byzfl.py", BY_BYZFL),
        ("Flower", FLOWER, "oracle_flower.py", BY_FLOWER),
    ):
        if not (python.parents[1] / ".installed").exists():
            sys.exit(f"{peer}: no environment; run make bench-robust-oracle")
        # Flower's loops are slow.
        cases = given.cases if peer == "byzfl" else given.cases // 4
        for rule, (bad, gap) in compare(python, script, rules, cases).items():
            differing += bad
            print(f"{peer:8} {rule:28} {cases} inputs, {bad} differ, largest difference {gap:.1e}")
    if differing:
        sys.exit("some answers differ")


if __name__ == "__main__":
    main()
