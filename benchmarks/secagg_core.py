"""Time the parts of a masked round: owner, member, opener, at a million parameters on one thread.

CPU seconds, the best of several tries; sealing and opening of envelopes is timed apart. An opener's work is
measured on a few bodies taken again and again, so that memory stays small: bodies are read one at a time. As
the same errors are then added many times, the sum itself is not looked at; ``benchmarks.exactness`` does.

Run with: python -m benchmarks.secagg_core [--parameters 1000000] [--bits 13] [--owners 100] [--format json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from galaxylearning.crypto.digest import checksummed
from galaxylearning.crypto.seal import SealContext, SealingKey, open_sealed, seal
from galaxylearning.secagg.member import answer_scalars, answer_sum, read_share
from galaxylearning.secagg.opener import open_scalars, open_sum
from galaxylearning.secagg.owner import Masked, mask_update
from galaxylearning.secagg.plan import MaskingPlan, plan_masking
from galaxylearning.secagg.questions import Dense, Joined, Signs, quantise_functional, question_polynomials

T = TypeVar("T")
SEED = bytes(range(32))
DIFFERENT_BODIES = 4


def cpu(work: Callable[[], T], *, tries: int = 3) -> tuple[float, T]:
    """The smallest CPU time of ``tries``, and what the work gave."""
    best = float("inf")
    for _ in range(tries):
        begun = time.process_time()
        found = work()
        best = min(best, time.process_time() - begun)
    return best, found


def plan_of(parameters: int, bits: int, owners: int) -> MaskingPlan:
    """K = 9, T = 5, f = 1; weights up to 15; 16 projections and the product make 17 scalars in the gate."""
    return plan_masking(
        parameters=parameters,
        cohort=max(owners, 2),
        bits=bits,
        max_weight=15,
        members=9,
        threshold=5,
        faulty=1,
        minimum_sum=2,
        projections=16,
        twin_projections=4,
    )


def measure_owner(plan: MaskingPlan, update: Any) -> tuple[dict[str, float], Masked]:
    """Mask and share, seal to nine members, open one envelope."""
    masking, masked = cpu(lambda: mask_update(plan, SEED, update, entropy=os.urandom), tries=5)
    key = SealingKey.generate(entropy=os.urandom)
    context = SealContext(1, checksummed("11" * 20), 1, 0, "share", checksummed("22" * 20))

    def sealed() -> list[bytes]:
        return [seal(share, [key.public], context, entropy=os.urandom) for share in masked.shares]

    sealing, envelopes = cpu(sealed)
    opening, _ = cpu(lambda: open_sealed(envelopes[0], key, context, max_bytes=plan.share_bytes))
    sent = len(masked.body) + sum(map(len, envelopes))
    return {
        "owner_mask_cpu_s": masking,
        "owner_seal_cpu_s": sealing,
        "owner_cpu_s": masking + sealing,
        "owner_sent_bytes": sent,
        "owner_sent_to_float32": sent / (4 * plan.parameters),
        "member_open_envelope_cpu_s": opening,
    }, masked


def measure_round(plan: MaskingPlan, masked: Sequence[Masked], owners: int) -> dict[str, float]:
    """Members' and opener's work for ``owners``, with all of K members' answers."""
    rng = np.random.default_rng(0)
    g, _ = quantise_functional(rng.normal(0, 1, plan.parameters), norm=plan.functional_norm, rng=rng)
    questions = Joined((Dense(g[None]), Signs(plan.projections, plan.parameters, bytes(32))))
    value = Dense(g[None])
    everybody = [masked[i % len(masked)] for i in range(owners)]
    bodies = [one.body for one in everybody]
    weights = rng.integers(1, plan.max_weight + 1, owners)

    def shares_of(member: int) -> Any:
        return np.stack([read_share(plan, one.shares[member]) for one in everybody])

    asking, polynomials = cpu(lambda: question_polynomials(plan.ring, SEED, questions))
    asking_value, value_polynomials = cpu(lambda: question_polynomials(plan.ring, SEED, value))
    reading, shares = cpu(lambda: shares_of(0))
    answering, answer = cpu(lambda: answer_scalars(plan, polynomials, shares))
    valuing, value_answer = cpu(lambda: answer_scalars(plan, value_polynomials, shares))
    summing, sum_answer = cpu(lambda: answer_sum(plan, shares, weights))
    members = range(plan.members)
    answers = {m: answer_scalars(plan, polynomials, shares_of(m)) for m in members}
    sums = {m: answer_sum(plan, shares_of(m), weights) for m in members}
    opening, opened = cpu(lambda: open_scalars(plan, questions, bodies, answers), tries=2)
    opening_sum, _ = cpu(lambda: open_sum(plan, SEED, bodies, weights, sums), tries=2)
    if not opened.usable.all():
        raise RuntimeError("an honest round did not open")
    return {
        "member_question_cpu_s": asking,
        "member_value_question_cpu_s": asking_value,
        "member_read_shares_cpu_s": reading,
        "member_scalars_cpu_s": answering,
        "member_value_cpu_s": valuing,
        "member_sum_cpu_s": summing,
        "member_cpu_s": asking + asking_value + reading + answering + valuing + summing,
        "member_sent_bytes": len(answer) + len(value_answer) + len(sum_answer),
        "opener_scalars_cpu_s": opening,
        "opener_sum_cpu_s": opening_sum,
        "opener_cpu_s": opening + opening_sum,
    }


def measure(parameters: int, bits: int, owners: int) -> dict[str, Any]:
    """All figures, with the plan they belong to."""
    plan = plan_of(parameters, bits, owners)
    rng = np.random.default_rng(1)
    updates = rng.normal(0, 1, (DIFFERENT_BODIES, parameters))
    updates *= plan.levels / np.linalg.norm(updates, axis=1)[:, None]
    rows = np.clip(np.rint(updates), -plan.levels, plan.levels).astype(np.int32)
    found, first = measure_owner(plan, rows[0])
    masked = [first, *(mask_update(plan, SEED, row, entropy=os.urandom) for row in rows[1:])]
    found |= measure_round(plan, masked, owners)
    found["member_cpu_s_with_envelopes"] = (
        found["member_cpu_s"] + owners * found["member_open_envelope_cpu_s"]
    )
    return {
        "parameters": parameters,
        "bits": bits,
        "owners": owners,
        "ring": plan.ring.name,
        "modulus": plan.modulus,
        "functional_norm": plan.functional_norm,
        "failure_log2": round(plan.failure_log2, 2),
        **found,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, default=13)
    parser.add_argument("--owners", type=int, default=100)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    found = measure(options.parameters, options.bits, options.owners)
    if options.format == "json":
        print(json.dumps(found))
        return
    for name, number in found.items():
        print(f"{name:28} {number:.4f}" if isinstance(number, float) else f"{name:28} {number}")


if __name__ == "__main__":
    main()
