"""What the terms say of masked mode, as the secure aggregation wants it; and the randomness of its questions.

A question that data owners could foresee could be answered by a poisoned update made for it. So the vectors
that norms and twins are told by follow from the chain, from a block that came after the updates were in.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from blake3 import blake3

from galaxylearning.contribution import twin_projections
from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import JobRefused
from galaxylearning.messages.plan import MIN_SUM, Masking, Plan
from galaxylearning.messages.terms import Terms
from galaxylearning.secagg.plan import PARAMETERS_PER_SCALAR, MaskingPlan, allowed_scalars, plan_masking
from galaxylearning.units import how_many

GATE_PROJECTIONS: Final = 15
GATE_AND_VALUE: Final = 2
FEWEST_PROJECTIONS: Final = 3
_LABEL: Final = "galaxylearning 2026 question randomness v1"


def masked_plan(plan: Plan, parameters: int, masking: Masking | None = None) -> Plan:
    """A plan as masked mode runs it: ``default_projections`` for the gate where none are named.

    ``masking`` is what the requester wants of it, where it says so.

    Raises:
        JobRefused: the model is too small for masked mode, or a round of too few data owners for a sum is
            allowed.
    """
    default = default_projections(parameters, 0 if masking is None else masking.twin_projections)
    if plan.minimum_owners < MIN_SUM:
        raise JobRefused(
            f"{plan.minimum_owners} given; allowed: at least {MIN_SUM} with privacy 'masked', for a sum is "
            "opened over no fewer",
            where="plan.minimum_owners",
        )
    return plan if plan.projections else msgspec.structs.replace(plan, projections=default)


def default_projections(parameters: int, twins: int = 0) -> int:
    """How many projections the gate gets where the requester names none: all it has a use for, as far as the
    budget goes. The search for twins has what is left; ``twins`` are set aside for it where the requester
    named that number.

    Raises:
        JobRefused: the model is too small for masked mode.
    """
    allowed = allowed_scalars(parameters) - GATE_AND_VALUE
    if allowed < FEWEST_PROJECTIONS:
        needed = PARAMETERS_PER_SCALAR * (GATE_AND_VALUE + FEWEST_PROJECTIONS)
        raise JobRefused(
            f"'masked' given; a model of {parameters} parameters is too small for it: one scalar may be "
            f"opened for every {PARAMETERS_PER_SCALAR}, and {needed} parameters are the least. Allowed: "
            "'sealed', or a larger model",
            where="privacy",
        )
    return min(GATE_PROJECTIONS, max(FEWEST_PROJECTIONS, allowed - twins))


def few_projections(terms: Terms, parameters: int) -> str | None:
    """What to say of a masked job whose gate has fewer projections than ``GATE_PROJECTIONS``, or None.

    k products with vectors of +-1 tell the square of a length with a relative standard deviation of at most
    sqrt(2 / k), so the length with about half of that.

    Source: Achlioptas, "Database-friendly random projections", J. Comput. Syst. Sci. 66 (2003).
    """
    count = terms.plan.projections
    if terms.masking is None or count >= GATE_PROJECTIONS:
        return None
    needed = PARAMETERS_PER_SCALAR * (GATE_AND_VALUE + GATE_PROJECTIONS + terms.masking.twin_projections)
    remedy = f"Take a model of {needed:,} parameters or more, which has {GATE_PROJECTIONS}"
    if parameters >= needed:
        remedy = f"Leave plan.projections out, which gives {GATE_PROJECTIONS}"
    return (
        f"the gate is told {how_many(count, 'projection')} of an update of {parameters:,} parameters: its "
        f"length to within {(1 / (2 * count)) ** 0.5:.0%}, so honest data owners may lose much of their pay "
        f"by chance. {remedy}, or take privacy 'sealed'"
    )


def default_masking(plan: Plan, *, parameters: int, seats: int) -> Masking:
    """Masked mode for this many evaluators: the largest minority may collude, the rest may fail or lie.

    Raises:
        JobRefused: fewer than three evaluators.
    """
    threshold = (seats - 1) // 2
    if threshold < 1:
        raise JobRefused(f"{seats} given; allowed: at least 3 with privacy 'masked'", where="evaluators")
    left = allowed_scalars(parameters) - GATE_AND_VALUE - plan.projections
    return Masking(
        threshold=threshold,
        faulty=(seats - threshold - 1) // 2,
        minimum_sum=MIN_SUM,
        twin_projections=twin_projections(left, plan.rounds),
    )


def masking_plan(terms: Terms, parameters: int) -> MaskingPlan:
    """The secure aggregation of a masked job with a model of this many trainable parameters.

    Raises:
        ConfigRefused: range, noise or opening budget do not allow it; which, and what would do.
        ValueError: the job is not masked.
    """
    masking = terms.masking
    if masking is None:
        raise ValueError("this job is not masked")
    return plan_masking(
        parameters=parameters,
        cohort=terms.plan.maximum_owners,
        bits=terms.plan.bits,
        max_weight=terms.plan.max_weight,
        members=len(terms.evaluators),
        threshold=masking.threshold,
        faulty=masking.faulty,
        minimum_sum=masking.minimum_sum,
        projections=terms.plan.projections,
        twin_projections=masking.twin_projections,
    )


def question_seed(beacon: bytes, purpose: str, *, job_id: int, round_index: int) -> bytes:
    """32 bytes for the questions of one purpose, from a block's randomness ``beacon``."""
    parts = (blake3_digest(beacon), job_id.to_bytes(32, "big"), round_index.to_bytes(4, "big"))
    return blake3(b"".join(parts) + purpose.encode(), derive_key_context=_LABEL).digest()


def rng_of(seed: bytes) -> np.random.Generator:
    """The generator that rounds a question's vector, the same for everybody."""
    return np.random.default_rng(int.from_bytes(seed, "big"))


def simulated_beacon(seed: int) -> bytes:
    """Stands for the randomness of every block in a simulation of a job with this seed."""
    return blake3_digest(b"simulated beacon" + seed.to_bytes(8, "big"))
