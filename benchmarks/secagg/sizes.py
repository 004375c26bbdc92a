"""The job that is measured: its plan, its keys, and updates that look like updates."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from galaxylearning.crypto.seal import SealContext, SealingKey, seal
from galaxylearning.secagg.owner import Masked, mask_update, public_seed
from galaxylearning.secagg.plan import MaskingPlan, plan_masking
from galaxylearning.units import Address, Digest, Entropy

PARAMETERS, MEMBERS, THRESHOLD, FAULTY = 1_000_000, 9, 5, 1
NARROW_BITS, WIDE_BITS, MAX_WEIGHT, PROJECTIONS, TWINS = 12, 16, 15, 15, 16
OWNERS, SCALARS = 100, 17
CONTRACT, SENDER = Address("0x" + "5a" * 20), Address("0x" + "7b" * 20)

I32 = npt.NDArray[np.int32]


def planned(*, parameters: int = PARAMETERS, cohort: int = OWNERS, bits: int = NARROW_BITS) -> MaskingPlan:
    """The plan of the measured job."""
    return plan_masking(
        parameters=parameters,
        cohort=cohort,
        bits=bits,
        max_weight=MAX_WEIGHT,
        members=MEMBERS,
        threshold=THRESHOLD,
        faulty=FAULTY,
        minimum_sum=3,
        projections=PROJECTIONS,
        twin_projections=TWINS,
    )


def seed_of_round(round_index: int) -> bytes:
    """The public seed of a round of the measured job."""
    return public_seed(
        chain_id=31337,
        contract=CONTRACT,
        job_id=1,
        round_index=round_index,
        model_digest=Digest(bytes(32)),
    )


def update(plan: MaskingPlan, rng: np.random.Generator) -> I32:
    """A Gaussian direction with 90 % of the norm that the plan allows, as integers int32[P]."""
    direction = rng.standard_normal(plan.parameters)
    scaled = direction * (0.9 * plan.levels / float(np.linalg.norm(direction)))
    return np.clip(np.rint(scaled), -plan.levels, plan.levels).astype(np.int32)


def send(
    plan: MaskingPlan, seed: bytes, integers: I32, keys: list[bytes], *, entropy: Entropy = os.urandom
) -> tuple[Masked, list[bytes]]:
    """All that an owner makes in a round: the body, and one sealed envelope a member."""
    masked = mask_update(plan, seed, integers, entropy=entropy)
    envelopes = [
        seal(
            share,
            [key],
            SealContext(31337, CONTRACT, 1, 0, f"share-{member}", SENDER),
            entropy=entropy,
        )
        for member, (share, key) in enumerate(zip(masked.shares, keys, strict=True))
    ]
    return masked, envelopes


def sealing_keys(count: int) -> list[SealingKey]:
    """Fresh members' keys."""
    return [SealingKey.generate(entropy=os.urandom) for _ in range(count)]
