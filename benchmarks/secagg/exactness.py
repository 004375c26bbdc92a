"""Check that masked mode opens exactly what the integers give, over many random cohorts.

Every cohort has its own plan (2 to 15 members, thresholds, bits, weights, both rings), 2 to 12 owners of whom
0 to 60 % vanish before the accepted set is fixed, a random set of at least T + 1 members that answer, and as
many liars among them as can be corrected, up to the plan's f, who change random words of their answers. All
scalars, one weighted sum and the names of the liars are compared with what the integers give.

Run with: python -m benchmarks.secagg.exactness [--cohorts 10000] [--seed 0] [--format json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from galaxylearning.crypto.ring import DEGREE, pack, unpack
from galaxylearning.errors import ConfigRefused
from galaxylearning.secagg.member import answer_scalars, answer_sum, read_share
from galaxylearning.secagg.opener import open_scalars, open_sum
from galaxylearning.secagg.owner import Masked, mask_update
from galaxylearning.secagg.plan import MaskingPlan, plan_masking
from galaxylearning.secagg.questions import Dense, Joined, Signs, quantise_functional, question_polynomials

MAX_DROPOUT = 0.6


@dataclass(frozen=True, slots=True)
class Exactness:
    """What was compared, and what differed. ``failures`` are (cohort, what) pairs."""

    cohorts: int
    seed: int
    owners: int
    dropped: int
    scalars: int
    coordinates: int
    liars: int
    largest_dropout: float
    cpu_s: float
    failures: tuple[tuple[int, str], ...]


def random_plan(rng: np.random.Generator) -> MaskingPlan:
    """A plan that the planner accepts, with random sizes."""
    while True:
        members = int(rng.integers(2, 16))
        threshold = int(rng.integers(1, members))
        try:
            return plan_masking(
                parameters=int(rng.choice([256, 300, 640, 2047, 2048, 2049, 5000])),
                cohort=12,
                bits=int(rng.integers(2, 21)),
                max_weight=int(rng.choice([1, 2, 15, 100])),
                members=members,
                threshold=threshold,
                faulty=int(rng.integers(0, (members - threshold - 1) // 2 + 1)),
                minimum_sum=2,
                projections=int(rng.integers(1, 3)),
                twin_projections=0,
            )
        except ConfigRefused:
            continue


def random_updates(plan: MaskingPlan, count: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Updates of all lengths up to the plan's, some of them with all of it in one coordinate."""
    rows = rng.normal(0, 1, (count, plan.parameters))
    rows *= (plan.levels * rng.random(count) / np.linalg.norm(rows, axis=1))[:, None]
    found = np.clip(np.rint(rows), -plan.levels, plan.levels).astype(np.int32)
    for row in found[rng.random(count) < 0.2]:
        row[:] = 0
    for at in np.flatnonzero(rng.random(count) < 0.2):
        found[at] = 0
        found[at, rng.integers(plan.parameters)] = rng.choice([-plan.levels, plan.levels])
    return found


def _lied(plan: MaskingPlan, answer: bytes, width: int, rng: np.random.Generator) -> bytes:
    """Random words of an answer changed, one at least."""
    words = unpack(plan.ring, answer, width=width, where="answer").copy()
    for index, prime in enumerate(plan.ring.primes):
        part = words[:, index]
        chosen = rng.random(part.shape) < rng.choice([0.001, 0.5, 1.0])
        chosen[rng.integers(len(part)), rng.integers(width)] = True
        shifts = rng.integers(1, prime, part.shape)
        part[chosen] = (part[chosen] + shifts[chosen]) % prime
    return pack(plan.ring, words)


def _compare_cohort(
    rng: np.random.Generator, mask: Callable[..., Masked]
) -> tuple[dict[str, int], float, list[str]]:
    plan = random_plan(rng)
    everybody = int(rng.integers(2, 13))
    dropped = min(int(rng.integers(0, int(everybody * MAX_DROPOUT) + 1)), everybody - 2)
    owners = everybody - dropped
    updates = random_updates(plan, owners, rng)
    seed = rng.bytes(32)
    # Those who vanish have masked, too; nothing of theirs is needed.
    masked = [mask(plan, seed, update, entropy=os.urandom) for update in updates]
    bodies = [one.body for one in masked]
    n = int(rng.integers(plan.threshold + 1, plan.members + 1))
    present = sorted(rng.choice(plan.members, n, replace=False).tolist())
    correctable = min(plan.faulty, (n - plan.threshold - 1) // 2)
    liars = sorted(rng.choice(present, rng.integers(0, correctable + 1), replace=False).tolist())
    shares = {m: np.stack([read_share(plan, one.shares[m]) for one in masked]) for m in present}
    g, _ = quantise_functional(rng.normal(0, 1, plan.parameters), norm=plan.functional_norm, rng=rng)
    questions = Joined((Dense(g[None]), Signs(plan.projections, plan.parameters, rng.bytes(32))))
    polynomials = question_polynomials(plan.ring, seed, questions)
    answers = {m: answer_scalars(plan, polynomials, shares[m]) for m in present}
    answers |= {m: _lied(plan, answers[m], questions.count, rng) for m in liars}
    weights = rng.integers(0, plan.max_weight + 1, owners)
    weights[rng.choice(owners, 2, replace=False)] = plan.max_weight
    sums = {m: answer_sum(plan, shares[m], weights) for m in present}
    sums |= {m: _lied(plan, sums[m], DEGREE, rng) for m in liars}
    scalars = open_scalars(plan, questions, bodies, answers)
    total = open_sum(plan, seed, bodies, weights, sums)
    checks = {
        "scalars": bool(scalars.usable.all()) and np.array_equal(scalars.values, questions.products(updates)),
        "sum": not total.overflowed.any() and np.array_equal(total.total, weights @ updates.astype(np.int64)),
        "liars": sorted(scalars.wrong) == liars and sorted(total.wrong) == liars,
    }
    counts = {
        "owners": owners,
        "dropped": dropped,
        "scalars": owners * questions.count,
        "coordinates": plan.parameters,
        "liars": len(liars),
    }
    return counts, dropped / everybody, [name for name, is_right in checks.items() if not is_right]


def check_exactness(cohorts: int, seed: int, *, mask: Callable[..., Masked] = mask_update) -> Exactness:
    """Compare ``cohorts`` random cohorts. Secrets come from the system, all else from ``seed``.

    ``mask`` is what owners do: ``mask_update``, or something wrong that must be noticed.
    """
    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(("owners", "dropped", "scalars", "coordinates", "liars"), 0)
    failures: list[tuple[int, str]] = []
    largest = 0.0
    begun = time.process_time()
    for cohort in range(cohorts):
        found, dropout, wrong = _compare_cohort(rng, mask)
        for name, number in found.items():
            counts[name] += number
        largest = max(largest, dropout)
        failures += [(cohort, what) for what in wrong]
    cpu_s = time.process_time() - begun
    return Exactness(cohorts, seed, largest_dropout=largest, cpu_s=cpu_s, failures=tuple(failures), **counts)


def main() -> None:
    """Print what was found; exit with 1 where anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    found: dict[str, Any] = asdict(check_exactness(options.cohorts, options.seed))
    if options.format == "json":
        print(json.dumps(found))
    else:
        for name, number in found.items():
            print(f"{name:16} {number}")
    if found["failures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
