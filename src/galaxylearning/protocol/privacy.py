"""What a plan's noise means: room among the integers, what a round releases, whether a budget allows it.

Figures are of one data owner. With local noise they are for one of its rows, there or not; with central noise
for all of its rows exchanged for others, because who takes part is public. Scores are computed from every
single update, so the noise that counts is what that update carries alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from galaxylearning.errors import ConfigRefused, GraphRefused, JobRefused
from galaxylearning.graph.model import NO_EXAMPLES, Model
from galaxylearning.learning.accounting import Release, epsilon
from galaxylearning.learning.plan import LocalPlan
from galaxylearning.learning.private import ExampleNoise, private_steps
from galaxylearning.learning.quantise import largest_level
from galaxylearning.messages.plan import Noise, Plan

HEADROOM: Final = 10.0
"""Integers leave room for ``sqrt(parameters) + HEADROOM`` standard deviations of noise beside the clipped
norm. A noisy update is longer than that with probability e^-50: it fits where masked ones are opened, too."""
LEAST_DEVIATION: Final = 8.0
"""Standard deviation of a share, in integers: from here on a sum of shares is as good as one discrete
Gaussian (it differs by e^-600; Kairouz, Liu, Steinke, arXiv 2102.06387, theorem 1)."""
LEAST_COORDINATE: Final = 8.0
"""A clipped update has at least so many integers a coordinate, or rounding would take what training gave."""
EXCHANGED: Final = 2.0
"""Two clipped updates differ by at most twice the clipped norm."""


def example_noise(noise: Noise) -> ExampleNoise:
    """The training part of local noise."""
    if noise.example_clip is None:
        raise ValueError("central noise clips no examples")
    return ExampleNoise(noise.multiplier, noise.example_clip)


def check_protectable(model: Model) -> None:
    """Refuse what noise on parameters would not protect: batch statistics, and buffers that leave.

    Raises:
        GraphRefused: naming what to use instead.
    """
    if model.buffer_count:
        raise GraphRefused(f"federated buffers would leave without noise; {NO_EXAMPLES}", where="plan.noise")


def update_range(plan: Plan, parameters: int | None) -> float:
    """The norm that integers have room for, in the update's unit: the clipped one, and central noise over so
    many ``parameters``, which only that needs.

    Raises:
        ConfigRefused: the plan's bits have no room for the noise, or leave the noise or the update too few
            integers.
    """
    if plan.noise is None or plan.noise.kind == "local":
        return plan.clip_norm
    if parameters is None:
        raise ValueError("central noise needs to know the number of parameters")
    spread = plan.noise.multiplier / math.sqrt(plan.minimum_owners)
    room = 1.0 + (math.sqrt(parameters) + HEADROOM) * spread
    norm, least = largest_level(plan.bits) / room, LEAST_COORDINATE * math.sqrt(parameters)
    if norm < least or norm * spread < LEAST_DEVIATION:
        raise ConfigRefused(
            f"{plan.bits} bits leave a clipped norm of {norm:.3g} and noise of {norm * spread:.3g} integers; "
            f"{least:.3g} and {LEAST_DEVIATION:g} are needed with {parameters:,} parameters",
            where="plan.bits",
        )
    return plan.clip_norm * room


def share_variance(plan: Plan, parameters: int) -> int:
    """Variance of one data owner's share of central noise, in squared integers, rounded up."""
    if plan.noise is None or plan.noise.kind != "central":
        raise ValueError("only central noise is shared")
    norm = largest_level(plan.bits) * plan.clip_norm / update_range(plan, parameters)
    return math.ceil((plan.noise.multiplier * norm) ** 2 / plan.minimum_owners)


def release_of(plan: Plan, n_rows: int) -> Release | None:
    """What one round tells of a data owner with ``n_rows`` rows to whoever sees its update, or scalars or
    scores made of it; None without noise: everything.

    Raises:
        JobRefused: more steps than a round may have.
    """
    noise = plan.noise
    if noise is None:
        return None
    if noise.kind == "central":
        return Release(noise.multiplier / (EXCHANGED * math.sqrt(plan.minimum_owners)))
    training = LocalPlan(epochs=plan.epochs, steps=plan.steps, batch_size=plan.batch_size)
    try:
        steps = private_steps(n_rows, training)
    except ValueError as error:
        raise JobRefused(f"{error}, with {n_rows} rows", where="plan.epochs") from error
    return Release(noise.multiplier, steps, plan.batch_size, n_rows)


def models_release(plan: Plan) -> Release | None:
    """What one round of central noise tells to who sees nothing but models; None where that is not bounded.

    It needs equal weights, which the gate does not give, and as many honest data owners as the least number.
    """
    if plan.noise is None or plan.noise.kind != "central" or plan.gate:
        return None
    return Release(plan.noise.multiplier / EXCHANGED)


def job_epsilon(plan: Plan, n_rows: int) -> float:
    """Epsilon of a whole job, at the plan's delta; infinite without noise."""
    release = release_of(plan, n_rows)
    if release is None or plan.noise is None:
        return math.inf
    return epsilon([(release, plan.rounds)], plan.noise.delta)


@dataclass(frozen=True, slots=True)
class Spending:
    """What a job has told, or may yet tell, of a data set: ``rounds`` rounds were sent, of ``reserved`` while
    ``is_open``. ``release`` is a round's, None where there was no noise.
    """

    job: str
    requester: str
    release: Release | None
    reserved: int
    rounds: int
    is_open: bool

    @property
    def charged(self) -> int:
        """Rounds that count: all that may come while the job goes on, those that came afterwards."""
        return max(self.reserved, self.rounds) if self.is_open else self.rounds


def spent_epsilon(spendings: Sequence[Spending], delta: float) -> float:
    """Epsilon of everything that was told with noise, open jobs with all of their rounds."""
    return epsilon([(one.release, one.charged) for one in spendings if one.release is not None], delta)


def unprotected_rounds(spendings: Sequence[Spending]) -> int:
    """How many rounds were sent without noise: no epsilon covers what they told."""
    return sum(one.rounds for one in spendings if one.release is None)


def over_budget(
    plan: Plan, n_rows: int, spendings: Sequence[Spending], *, job: str, max_epsilon: float, delta: float
) -> str | None:
    """Why a job would tell more of a data set than ``max_epsilon`` at ``delta`` allows, or None.

    What the job itself has reserved before is not counted twice.
    """
    release = release_of(plan, n_rows)
    if release is None:
        return f"the plan adds no noise: no epsilon bounds what it tells; {max_epsilon:g} in all is allowed"
    others = [one for one in spendings if one.job != job]
    spent = spent_epsilon(others, delta)
    mine = [*others, Spending(job, "", release, plan.rounds, 0, True)]
    after = spent_epsilon(mine, delta)
    if after <= max_epsilon:
        return None
    alone = epsilon([(release, plan.rounds)], delta)
    return (
        f"epsilon would reach {after:.3g} at delta {delta:g}: {spent:.3g} is spent or reserved, the job's "
        f"{plan.rounds} rounds alone are {alone:.3g}; the policy allows {max_epsilon:g} in all"
    )
