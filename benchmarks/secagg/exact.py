"""Every opened sum and scalar against the integers in the clear, over random cohorts.

Each cohort has its own model size, number of owners, bits, weights, committee, threshold and number of liars; some
owners vanish before they send (0 to 60 %), members vanish as far as the threshold and the liars allow, and some shares
never arrive. The liars answer with random residues, with answers about other owners, or with one changed residue.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from galaxylearning.crypto.ring import pack, unpack
from galaxylearning.secagg.member import answer_scalars, answer_sum, read_share
from galaxylearning.secagg.opener import open_scalars, open_sum
from galaxylearning.secagg.owner import Masked, mask_update
from galaxylearning.secagg.plan import MaskingPlan, plan_masking
from galaxylearning.secagg.questions import Dense, Joined, Signs, quantise_functional, question_polynomials

I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class Tally:
    """What was compared and what differed."""

    cohorts: int = 0
    owners: int = 0
    dropped: int = 0
    liars: int = 0
    liars_named: int = 0
    honest_named: int = 0
    scalars: int = 0
    scalars_wrong: int = 0
    coordinates: int = 0
    coordinates_wrong: int = 0
    worst_failure_log2: float = -1e9


def random_plan(rng: np.random.Generator) -> MaskingPlan:
    """A plan of random sizes; a third of them the largest committee."""
    members = int(rng.choice([3, 4, 5, 7, 9, 15]))
    threshold = int(rng.integers(1, members))
    return plan_masking(
        parameters=int(rng.choice([rng.integers(320, 2049), rng.integers(2049, 9000)])),
        cohort=int(rng.integers(5, 13)),
        bits=int(rng.integers(8, 17)),
        max_weight=int(rng.choice([1, 3, 15])),
        members=members,
        threshold=threshold,
        faulty=int(rng.integers(0, (members - threshold - 1) // 2 + 1)),
        minimum_sum=2,
        projections=3,
        twin_projections=0,
    )


def run(cohorts: int, seed: int) -> Tally:
    """Play ``cohorts`` rounds of masked mode and count what is not exact."""
    rng, tally = np.random.default_rng(seed), Tally()
    for _ in range(cohorts):
        _play(random_plan(rng), rng, tally)
    return tally


def _updates(plan: MaskingPlan, count: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Dense, sparse and single-coordinate updates, up to the very edge of the range."""
    raw = rng.standard_normal((count, plan.parameters))
    raw[rng.random(count) < 0.3] *= rng.random(plan.parameters) < 0.01
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    scaled = np.rint(raw * (plan.levels / np.maximum(norms, 1e-9)))
    alone = np.flatnonzero(rng.random(count) < 0.1)
    scaled[alone] = 0
    scaled[alone, rng.integers(0, plan.parameters, len(alone))] = plan.levels * rng.choice([-1, 1])
    return np.clip(scaled, -plan.levels, plan.levels).astype(np.int32)


def _play(plan: MaskingPlan, rng: np.random.Generator, tally: Tally) -> None:
    seed = rng.bytes(32)
    share_of_dropped = rng.uniform(0, 0.6)
    everybody = plan.cohort
    present = max(2, everybody - int(round(share_of_dropped * everybody)))
    integers = _updates(plan, present, rng)
    sent = [mask_update(plan, seed, row, entropy=os.urandom) for row in integers]
    weights = rng.integers(0, plan.max_weight + 1, present)
    weights[rng.choice(present, 2, replace=False)] = plan.max_weight
    vectors = [
        quantise_functional(rng.standard_normal(plan.parameters), norm=plan.functional_norm, rng=rng)[0]
        for _ in range(2)
    ]
    questions = Joined((Dense(np.stack(vectors)), Signs(plan.projections, plan.parameters, rng.bytes(32))))
    answering = int(rng.integers(plan.threshold + 1 + 2 * plan.faulty, plan.members + 1))
    members = sorted(rng.choice(plan.members, answering, replace=False).tolist())
    liars = sorted(rng.choice(members, plan.faulty, replace=False).tolist())
    shares = {
        member: np.stack([read_share(plan, masked.shares[member]) for masked in sent]) for member in members
    }
    polynomials = question_polynomials(plan.ring, seed, questions)
    scalars = {member: answer_scalars(plan, polynomials, held) for member, held in shares.items()}
    sums = {member: answer_sum(plan, held, weights) for member, held in shares.items()}
    for liar in liars:
        scalars[liar] = _lie(plan, scalars[liar], questions.count, rng)
        sums[liar] = _lie(plan, sums[liar], 2048, rng)
    bodies = [masked.body for masked in sent]
    opened = open_scalars(plan, questions, bodies, scalars)
    total = open_sum(plan, seed, bodies, weights, sums)
    _count(tally, plan, sent, liars, members)
    clear = questions.products(integers)
    tally.dropped += everybody - present
    tally.scalars += clear.size
    tally.scalars_wrong += int((opened.values != clear).sum()) + int((~opened.usable).sum())
    summed = weights @ integers.astype(np.int64)
    tally.coordinates += summed.size
    tally.coordinates_wrong += int((total.total != summed).sum()) + int(total.overflowed.sum())
    named = set(opened.wrong) | set(total.wrong)
    tally.liars_named += len(named & set(liars))
    tally.honest_named += len(named - set(liars))


def _count(tally: Tally, plan: MaskingPlan, sent: list[Masked], liars: list[int], members: list[int]) -> None:
    tally.cohorts += 1
    tally.owners += len(sent)
    tally.liars += len(liars)
    tally.worst_failure_log2 = max(tally.worst_failure_log2, plan.failure_log2)
    if len(members) < plan.threshold + 1 + 2 * len(liars):
        raise ValueError("too few members for so many liars")


def _lie(plan: MaskingPlan, answer: bytes, width: int, rng: np.random.Generator) -> bytes:
    """A well-formed wrong answer of one of three kinds."""
    words = unpack(plan.ring, answer, width=width, where="answer")
    kind = int(rng.integers(3))
    if kind == 0:
        for index, prime in enumerate(plan.ring.primes):
            words[:, index] = rng.integers(0, prime, words[:, index].shape)
    elif kind == 1:
        words = np.ascontiguousarray(words[:, :, ::-1])
    else:
        row, column = rng.integers(len(words)), rng.integers(width)
        words[row, 0, column] = (words[row, 0, column] + 1) % plan.ring.primes[0]
    return pack(plan.ring, words)
