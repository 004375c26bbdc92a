"""A masked round from end to end, small: cohorts, members' answers, lies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from galaxylearning.crypto.ring import F64
from galaxylearning.secagg.member import answer_scalars, answer_sum, read_share
from galaxylearning.secagg.owner import Masked, mask_update
from galaxylearning.secagg.plan import MaskingPlan, plan_masking
from galaxylearning.secagg.questions import Questions, question_polynomials

SEED = bytes(range(32))


def small_plan(**changes: Any) -> MaskingPlan:
    """A plan for 300 parameters and 6 members, 2 of whom may collude and 1 lie, with ``changes``."""
    settings = {
        "parameters": 300,
        "cohort": 10,
        "bits": 13,
        "max_weight": 15,
        "members": 6,
        "threshold": 2,
        "faulty": 1,
        "minimum_sum": 2,
        "projections": 2,
        "twin_projections": 0,
    }
    return plan_masking(**(settings | changes))


def updates_of(plan: MaskingPlan, count: int, rng: np.random.Generator) -> Any:
    """``count`` updates int32[count, P]: spread, sparse, at the ends of the range, zero."""
    rows = np.zeros((count, plan.parameters), np.int32)
    for row in rows:
        kind = rng.integers(4)
        if kind == 0:
            continue
        if kind == 1:
            row[rng.integers(plan.parameters)] = rng.choice([-plan.levels, plan.levels])
            continue
        drawn = rng.normal(0, 1, plan.parameters)
        if kind == 2:
            drawn *= rng.random(plan.parameters) < 0.01
        norm = max(float(np.linalg.norm(drawn)), 1e-9)
        row[:] = np.clip(np.rint(drawn * plan.levels / norm * rng.random()), -plan.levels, plan.levels)
    return rows


@dataclass(frozen=True, eq=False)
class Round:
    """Masked updates of one round, and what members make of their shares."""

    plan: MaskingPlan
    updates: Any
    masked: tuple[Masked, ...]
    seed: bytes = SEED

    @property
    def bodies(self) -> list[bytes]:
        """What everybody sees."""
        return [masked.body for masked in self.masked]

    def shares(self, member: int) -> F64:
        """A member's shares, f64[m, 2, N]."""
        return np.stack([read_share(self.plan, masked.shares[member]) for masked in self.masked])

    def scalars(self, questions: Questions, members: Any) -> dict[int, bytes]:
        """Honest answers to ``questions``."""
        polynomials = question_polynomials(self.plan.ring, self.seed, questions)
        return {member: answer_scalars(self.plan, polynomials, self.shares(member)) for member in members}

    def sums(self, weights: Any, members: Any) -> dict[int, bytes]:
        """Honest answers to a weighted sum."""
        return {member: answer_sum(self.plan, self.shares(member), weights) for member in members}


def masked_round(plan: MaskingPlan, updates: Any) -> Round:
    """Every row of ``updates``, masked."""
    rows = updates.astype(np.int32)
    return Round(plan, rows, tuple(mask_update(plan, SEED, row, entropy=os.urandom) for row in rows))
