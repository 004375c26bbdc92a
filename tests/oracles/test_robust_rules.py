"""Every robust rule against a second implementation, written from the papers in plain loops over floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

from galaxylearning.learning.rules import RULES, apply_rule

Vector: TypeAlias = Any
CASES = 200
CASES_WITH_A_REFERENCE = 3000
"""No other package has these two: here is all they are compared with."""


def norm(x: Vector) -> float:
    return math.sqrt(math.fsum(float(v) ** 2 for v in x))


def average(vectors: list[Vector]) -> Vector:
    return np.array([math.fsum(float(v[j]) for v in vectors) / len(vectors) for j in range(len(vectors[0]))])


def without_extremes(vectors: list[Vector], faulty: int) -> Vector:
    columns = [sorted(float(v[j]) for v in vectors) for j in range(len(vectors[0]))]
    return np.array([math.fsum(c[faulty : len(c) - faulty]) / (len(c) - 2 * faulty) for c in columns])


def middle(vectors: list[Vector]) -> Vector:
    return np.array([np.median([v[j] for v in vectors]) for j in range(len(vectors[0]))])


def krum_order(vectors: list[Vector], faulty: int) -> list[int]:
    scores = []
    for i, x in enumerate(vectors):
        others = sorted(norm(x - y) ** 2 for j, y in enumerate(vectors) if j != i)
        scores.append((math.fsum(others[: max(1, len(vectors) - faulty - 2)]), i))
    return [i for _, i in sorted(scores)]


def multi_krum(vectors: list[Vector], faulty: int) -> Vector:
    return average([vectors[i] for i in krum_order(vectors, faulty)[: len(vectors) - faulty]])


def bulyan(vectors: list[Vector], faulty: int) -> Vector:
    left = list(vectors)
    chosen: list[Vector] = []
    while len(chosen) < len(vectors) - 2 * faulty:
        chosen.append(left.pop(krum_order(left, faulty)[0]))
    kept = len(chosen) - 2 * faulty
    found = []
    for j in range(len(chosen[0])):
        column = [float(v[j]) for v in chosen]
        centre = float(np.median(column))
        found.append(math.fsum(sorted(column, key=lambda v: (abs(v - centre), v))[:kept]) / kept)
    return np.array(found)


def geometric_median(vectors: list[Vector], _faulty: int = 0) -> Vector:
    z = np.zeros(len(vectors[0]))
    for _ in range(32):
        inverse = [1 / max(norm(x - z), 1.0) for x in vectors]
        z = sum(w * x for w, x in zip(inverse, vectors, strict=True)) / math.fsum(inverse)
    return z


def centred_clipping(vectors: list[Vector], _faulty: int) -> Vector:
    radius = sorted(norm(x) for x in vectors)[(len(vectors) - 1) // 2]
    v = np.zeros(len(vectors[0]))
    for _ in range(3):
        v = v + average([(x - v) * min(1, radius / max(norm(x - v), 1e-9)) for x in vectors])
    return v


def mixed_trimmed_mean(vectors: list[Vector], faulty: int) -> Vector:
    mixed = [average(sorted(vectors, key=lambda y: norm(x - y))[: len(vectors) - faulty]) for x in vectors]
    return without_extremes(mixed, faulty)


def fltrust(vectors: list[Vector], reference: Vector) -> Vector:
    trusts, scaled = [], []
    for x in vectors:
        cosine = float(np.dot(x, reference)) / (norm(x) * norm(reference))
        trusts.append(max(cosine, 0.0))
        scaled.append(x * (norm(reference) / norm(x)))
    return sum(t * x for t, x in zip(trusts, scaled, strict=True)) / math.fsum(trusts)


def gate(vectors: list[Vector], reference: Vector) -> Vector:
    products = [float(np.dot(x, reference)) for x in vectors]
    counted = [i for i, product in enumerate(products) if product > 0]
    norms = {i: norm(vectors[i]) for i in counted}
    cosines = {i: products[i] / norms[i] for i in counted}
    low = (len(counted) - 1) // 2
    everybody = sorted(norm(x) for x in vectors if norm(x) > 0)
    usual = min(sorted(norms.values())[low], everybody[(len(everybody) - 1) // 2])
    usual_cosine = sorted(cosines.values())[3 * (len(counted) - 1) // 4]
    weights = {
        i: math.floor(15 * min(1, usual / norms[i]) ** 2 * min(1, cosines[i] / usual_cosine) + 0.5)
        for i in counted
    }
    return sum(w * vectors[i] for i, w in weights.items()) / sum(weights.values())


REFERENCES: dict[str, Callable[[list[Vector], int], Vector]] = {
    "mean": lambda vectors, _: average(vectors),
    "trimmed-mean": without_extremes,
    "median": lambda vectors, _: middle(vectors),
    "krum": lambda vectors, faulty: vectors[krum_order(vectors, faulty)[0]],
    "multi-krum": multi_krum,
    "bulyan": bulyan,
    "geometric-median": geometric_median,
    "centred-clipping": centred_clipping,
    "nnm+trimmed-mean": mixed_trimmed_mean,
}


def random_input(name: str, rng: np.random.Generator) -> tuple[Any, int]:
    rule = RULES[name]
    faulty = int(rng.integers(0, 3))
    count = rule.least(faulty) + int(rng.integers(0, 5))
    spread = float(rng.choice([10, 300, 5000]))
    rows = np.rint(rng.normal(rng.normal(0, spread, 6), spread, (count, 6)))
    # A few far away, as attackers are.
    rows[: faulty // 2] *= -5
    return np.clip(rows, -32767, 32767).astype(np.int16), faulty


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_rule_is_what_the_paper_says(name: str) -> None:
    rng = np.random.default_rng([len(name), 7])
    for _ in range(CASES):
        rows, faulty = random_input(name, rng)
        found = apply_rule(name, rows, faulty=faulty, rng=rng)
        wanted = REFERENCES[name]([row.astype(np.float64) for row in rows], faulty)
        tolerance = 1e-9 if found.divisor < 1 << 12 else 1e-5
        np.testing.assert_allclose(
            found.total / found.divisor, wanted, rtol=tolerance, atol=tolerance * norm(wanted) + 1e-9
        )


@pytest.mark.parametrize(("name", "second"), [("fltrust", fltrust), ("gate", gate)])
def test_a_rule_with_a_reference_is_what_the_paper_says(name: str, second: Any) -> None:
    rng = np.random.default_rng(8)
    compared = 0
    for _ in range(CASES_WITH_A_REFERENCE):
        rows, _ = random_input(name, rng)
        reference = rng.integers(-500, 500, rows.shape[1])
        found = apply_rule(name, rows, faulty=0, rng=rng, reference=reference)
        if not found.weights.any():
            continue
        wanted = second([row.astype(np.float64) for row in rows], reference.astype(np.float64))
        np.testing.assert_allclose(found.total / found.divisor, wanted, rtol=1e-4, atol=1e-4 * norm(wanted))
        compared += 1
    assert compared > 2000


def test_buckets_of_two_then_the_geometric_median() -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        rows, faulty = random_input("bucketing+geometric-median", rng)
        found = apply_rule(
            "bucketing+geometric-median", rows, faulty=faulty, rng=np.random.default_rng(seed + 1)
        )
        order = np.random.default_rng(seed + 1).permutation(len(rows))
        shuffled = [rows[i].astype(np.float64) for i in order]
        buckets = [average(shuffled[i : i + 2]) for i in range(0, len(shuffled), 2)]
        wanted = geometric_median([2 * bucket for bucket in buckets]) / 2
        np.testing.assert_allclose(
            found.total / found.divisor, wanted, rtol=1e-4, atol=1e-4 * norm(wanted) + 1e-6
        )
