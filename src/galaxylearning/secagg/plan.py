"""The planner of masked mode: from a job's sizes to a ring, a plaintext modulus and bounds, or why not.

An owner sends ``c = A*s + t*e + x``. Opened are ``t*<g, e> + <g, x>`` and ``t * sum w e + sum w x`` modulo q.
Both must stay below q/2, and the parts with x below t/2, for every honest owner. Errors are sub-Gaussian with
variance 10.5, so ``P(|<g, e>| > z * 3.24 * |g|) <= 2 exp(-z*z/2)`` for every g chosen without looking at e;
a projection of an update x chosen before its signs has ``P(|<rho, x>| > z |x|) <= 2 exp(-k z) / sqrt(1-k*k)``
for every 0 < k < 1. The failures of all events of a job of 1,024 rounds together are kept below 2**-40.

Source: Hoeffding's lemma for the first bound. For the second, ``rho = a (x) b``: given b, Hoeffding's lemma
with variance |X b|**2; then ``E exp(s b'X'X b) <= (1 - 2 s |X|**2)**-1/2``, as for Gaussian b of rank one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from galaxylearning.crypto.ring import DEGREE, ERROR_VARIANCE, RINGS, WIDE, Ring
from galaxylearning.crypto.seal import sealed_bytes
from galaxylearning.crypto.shamir import MAX_MEMBERS
from galaxylearning.errors import ConfigRefused
from galaxylearning.learning.quantise import (
    MAX_BITS,
    MAX_SIZE,
    MAX_WEIGHT,
    MIN_BITS,
    largest_level,
)
from galaxylearning.learning.vectors import F64, I64, require_integer
from galaxylearning.secagg.questions import MAX_COORDINATE, MAX_COUNT, ring_rows

PARAMETERS_PER_SCALAR: Final = 64
MAX_SCALARS: Final = 128
"""However large the model: each opened scalar is one linear equation in an owner's 2,048 secret coefficients,
and 1,920 unknowns are still enough for 128 bits of security with q below 2**48."""

FAILURE_LOG2: Final = -40
JOB_ROUNDS: Final = 1024
MAX_MASKED_COHORT: Final = 1 << 16
LEAST_FUNCTIONAL_NORM: Final = 1024
"""Rounding a functional to integers of norm G adds an error of at most about |g||x|/G to its product."""


@dataclass(frozen=True)
class MaskingPlan:
    """What owners, members and openers of a job agree on. Made by :func:`plan_masking`.

    ``modulus`` is t. ``functional_norm`` is the largest L2 norm of a dense question's vectors.
    ``deviations`` is z: how many standard deviations of noise are taken for possible. ``failure_log2`` is the
    logarithm of a bound on the probability that any honest owner's answer in a job of 1,024 rounds is lost.
    """

    parameters: int
    cohort: int
    bits: int
    max_weight: int
    members: int
    threshold: int
    faulty: int
    minimum_sum: int
    projections: int
    twin_projections: int
    ring: Ring
    modulus: int
    functional_norm: int
    deviations: float
    failure_log2: float

    @property
    def rows(self) -> int:
        """Polynomials of a masked update."""
        return ring_rows(self.parameters)

    @property
    def levels(self) -> int:
        """The largest coordinate of an update, in magnitude."""
        return largest_level(self.bits)

    @property
    def update_norm(self) -> float:
        """The largest L2 norm of an honest update: ``levels``, and half a unit a coordinate for rounding."""
        return _update_norm(self.parameters, self.bits)

    @property
    def scalars(self) -> int:
        """How many scalars of one owner may be opened a round, at most."""
        return allowed_scalars(self.parameters)

    @property
    def quorum(self) -> int:
        """Members whose answers open: T + 1 when none lies."""
        return self.threshold + 1

    @property
    def body_bytes(self) -> int:
        """Size of a masked update."""
        return self.rows * self.ring.row_bytes

    @property
    def share_bytes(self) -> int:
        """Size of one member's share before it is sealed, and of a member's answer to a sum."""
        return self.ring.row_bytes

    @property
    def sent_bytes(self) -> int:
        """All an owner sends in a round: the body and its sealed shares."""
        return self.body_bytes + self.members * sealed_bytes(self.share_bytes, 1)

    def scalars_bytes(self, owners: int, count: int) -> int:
        """Size of a member's answer to ``count`` questions about each of ``owners``."""
        return owners * count * self.ring.pair_bytes

    def noise_bounds(self, norms: F64) -> F64:
        """The largest ``|<g, e>|`` that is possible for honest owners, for vectors g of these L2 norms."""
        return np.ceil(self.deviations * math.sqrt(ERROR_VARIANCE) * norms)

    def sum_noise_bound(self, weights: I64) -> float:
        """The largest ``|sum w e|`` of a coordinate that is possible for honest owners."""
        norm = math.sqrt(sum(weight * weight for weight in weights.tolist()))
        return float(self.noise_bounds(np.array([norm]))[0])

    def shown(self, values: I64) -> I64:
        """What an opening shows of these integers: themselves modulo t, in (-t/2, t/2)."""
        half = self.modulus // 2
        return (values + half) % self.modulus - half


def allowed_scalars(parameters: int) -> int:
    """How many scalars of one owner may be opened a round with a model of this many parameters."""
    return min(parameters // PARAMETERS_PER_SCALAR, MAX_SCALARS)


def plan_masking(
    *,
    parameters: int,
    cohort: int,
    bits: int,
    max_weight: int,
    members: int,
    threshold: int,
    faulty: int,
    minimum_sum: int,
    projections: int,
    twin_projections: int,
) -> MaskingPlan:
    """The plan with the smaller ring that works.

    Args:
        parameters: P, the length of an update.
        cohort: the largest number of owners in a round.
        bits: of an update's integers.
        max_weight: the largest weight in a sum.
        members: K, those who hold shares.
        threshold: T, how many members may collude and learn nothing.
        faulty: f, how many members' wrong answers are corrected.
        minimum_sum: the smallest number of owners that a sum may be over.
        projections: random projections per owner in the gate.
        twin_projections: projections per owner and round after the last round.

    Raises:
        ConfigRefused: a number out of range, or a bound that no ring meets; the message says what would do.
    """
    _check_committee(members, threshold, faulty)
    require_integer(parameters, "parameters", low=1, high=MAX_SIZE)
    require_integer(cohort, "cohort", low=2, high=MAX_MASKED_COHORT)
    require_integer(bits, "bits", low=MIN_BITS, high=MAX_BITS)
    require_integer(max_weight, "max_weight", low=1, high=MAX_WEIGHT)
    require_integer(minimum_sum, "minimum_sum", low=2, high=cohort)
    require_integer(projections, "projections", low=1, high=MAX_COUNT - 2)
    require_integer(twin_projections, "twin_projections", low=0, high=MAX_COUNT)
    _check_openings(parameters, projections, twin_projections)
    for ring in RINGS:
        found = _bounds(ring, parameters, cohort, bits, max_weight, 2 + projections + twin_projections)
        if found is not None:
            break
    else:
        raise ConfigRefused(
            _what_would_do(parameters, cohort, bits, max_weight, projections, twin_projections)
        )
    modulus, norm, deviations, failure = found
    return MaskingPlan(
        parameters=parameters,
        cohort=cohort,
        bits=bits,
        max_weight=max_weight,
        members=members,
        threshold=threshold,
        faulty=faulty,
        minimum_sum=minimum_sum,
        projections=projections,
        twin_projections=twin_projections,
        ring=ring,
        modulus=modulus,
        functional_norm=norm,
        deviations=deviations,
        failure_log2=failure,
    )


def _check_committee(members: int, threshold: int, faulty: int) -> None:
    require_integer(members, "members", low=2, high=MAX_MEMBERS)
    require_integer(threshold, "threshold", low=1, high=members - 1)
    most = (members - threshold - 1) // 2
    if type(faulty) is not int or not 0 <= faulty <= most:
        raise ConfigRefused(
            f"faulty must be from 0 to {most} with {members} members and a threshold of {threshold} "
            f"(members >= threshold + 1 + 2 faulty), not {faulty}"
        )


def _check_openings(parameters: int, projections: int, twin_projections: int) -> None:
    asked, allowed = 2 + projections + twin_projections, allowed_scalars(parameters)
    if asked <= allowed:
        return
    fits = (
        f"at most {allowed - 2} projections and twin projections together fit"
        if allowed >= 3
        else f"no projection fits below {3 * PARAMETERS_PER_SCALAR} parameters"
    )
    raise ConfigRefused(
        f"projections and twin_projections ask {asked} numbers of every owner and round (two products and "
        f"{projections} + {twin_projections} projections), but {parameters} parameters allow {allowed}, one "
        f"per {PARAMETERS_PER_SCALAR} and {MAX_SCALARS} at most: {fits}"
        + ("" if allowed == MAX_SCALARS else "; for a model this small use the privacy mode sealed")
    )


def _update_norm(parameters: int, bits: int) -> float:
    return largest_level(bits) + math.sqrt(parameters) / 2


_Bounds = tuple[int, int, float, float]


def _bounds(
    ring: Ring, parameters: int, cohort: int, bits: int, max_weight: int, scalars: int
) -> _Bounds | None:
    """Modulus, functional norm, deviations and failure for this ring, or None where it has no room."""
    noise_events = JOB_ROUNDS * (parameters + cohort * scalars)
    range_events = JOB_ROUNDS * cohort * scalars
    # Half of the allowed failures for noise, half for projections that leave the range.
    deviations = math.sqrt(2 * math.log(2 * noise_events * 2.0 ** (1 - FAILURE_LOG2)))
    deviations = math.ceil(deviations * 100) / 100
    spread = deviations * math.sqrt(ERROR_VARIANCE)
    reach, reach_failure = _projection_reach(range_events)
    norm = _update_norm(parameters, bits)
    least = 2 * math.ceil(max(cohort * max_weight * largest_level(bits), reach * norm)) + 1
    # Projections gather the errors of all coefficients, those that fill the last row up included.
    gathered = math.sqrt(ring_rows(parameters) * DEGREE)
    noise = math.ceil(spread * max(max_weight * math.sqrt(cohort), gathered))
    most = ring.modulus // (2 * noise + 1)
    if least > most:
        return None
    # Where the range and the noise of a dense question give out together.
    balanced = math.isqrt(int(ring.modulus * norm / spread))
    modulus = _coprime(min(max(least, balanced), most - 4), ring)
    if not least <= modulus <= most:
        return None
    functional = math.floor(
        min((modulus - 1) / 2 / norm, (ring.modulus / modulus - 1) / 2 / spread - 1, MAX_COORDINATE)
    )
    if functional < LEAST_FUNCTIONAL_NORM:
        return None
    failure = 2 * noise_events * math.exp(-(deviations**2) / 2) + range_events * reach_failure
    return modulus, functional, deviations, math.log2(failure)


def _coprime(modulus: int, ring: Ring) -> int:
    """The next odd number that shares no factor with q: odd, so that no residue is a tie."""
    modulus |= 1
    while math.gcd(modulus, ring.modulus) > 1:
        modulus += 2
    return modulus


def _projection_reach(events: int) -> tuple[float, float]:
    """How many norms a projection reaches in none of ``events``, and the probability for one."""
    z = 2.0
    while True:
        k = 1 - 1 / (2 * z)
        failure = 2 * math.exp(-k * z) / math.sqrt(1 - k * k)
        if failure * events <= 2.0 ** (FAILURE_LOG2 - 1):
            return z, failure
        z += 0.25


def _what_would_do(
    parameters: int, cohort: int, bits: int, max_weight: int, projections: int, twin_projections: int
) -> str:
    """Say which settings, changed one at a time, the wider ring has room for."""
    scalars = 2 + projections + twin_projections

    def fits(cohort: int, bits: int, max_weight: int) -> bool:
        return _bounds(WIDE, parameters, cohort, bits, max_weight, scalars) is not None

    ways = []
    if lower := [b for b in range(MIN_BITS, bits) if fits(cohort, b, max_weight)]:
        ways.append(f"bits of at most {lower[-1]}")
    if weight := _largest(lambda w: fits(cohort, bits, w), max_weight):
        ways.append(f"max_weight of at most {weight}")
    if owners := _largest(lambda c: fits(c, bits, max_weight), cohort, low=2):
        ways.append(f"a cohort of at most {owners}")
    return (
        f"bits: a cohort of {cohort} with {bits} bits, weights up to {max_weight} and {parameters} "
        f"parameters leaves no room between range and noise in {WIDE.modulus.bit_length()} bits; "
        + (f"allowed would be {', or '.join(ways)}" if ways else "fewer bits, weights and owners are needed")
    )


def _largest(fits: Callable[[int], bool], below: int, *, low: int = 1) -> int:
    """The largest number of ``low..below`` that fits, or 0; what fits has no gaps."""
    if not fits(low):
        return 0
    high = below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
