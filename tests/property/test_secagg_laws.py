"""Laws of masked rounds: whoever is there, what is opened is what the integers give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galaxylearning.crypto.ring import pack, unpack
from galaxylearning.errors import ConfigRefused
from galaxylearning.secagg.member import answer_scalars, answer_sum, contradicts_itself
from galaxylearning.secagg.opener import fitting, open_scalars, open_sum
from galaxylearning.secagg.plan import plan_masking
from galaxylearning.secagg.questions import Dense, Joined, Signs, quantise_functional, question_polynomials
from masked_rounds import masked_round, updates_of


@st.composite
def rounds(draw: Any) -> Any:
    members = draw(st.integers(2, 15))
    threshold = draw(st.integers(1, members - 1))
    plan = plan_masking(
        parameters=draw(st.sampled_from([256, 300, 2047, 2048, 2049, 4500])),
        cohort=12,
        bits=draw(st.sampled_from([4, 9, 13, 17])),
        max_weight=draw(st.sampled_from([1, 15, 200])),
        members=members,
        threshold=threshold,
        faulty=(members - threshold - 1) // 2,
        minimum_sum=2,
        projections=draw(st.integers(1, 2)),
        twin_projections=0,
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    owners = draw(st.integers(2, 6))
    present = draw(st.sets(st.integers(0, members - 1), min_size=threshold + 1))
    return plan, rng, masked_round(plan, updates_of(plan, owners, rng)), sorted(present)


def lie(plan: Any, answer: bytes, width: int, rng: Any) -> bytes:
    """Change one residue of an answer."""
    words = unpack(plan.ring, answer, width=width, where="answer").copy()
    index, row, column = rng.integers(2), rng.integers(len(words)), rng.integers(width)
    prime = plan.ring.primes[index]
    words[row, index, column] = (words[row, index, column] + rng.integers(1, prime)) % prime
    return pack(plan.ring, words)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds())
def test_opened_scalars_are_the_integers_answers(case: Any) -> None:
    plan, rng, masked, present = case
    g, _ = quantise_functional(rng.normal(0, 1, plan.parameters), norm=plan.functional_norm, rng=rng)
    questions = Joined((Dense(g[None]), Signs(plan.projections, plan.parameters, rng.bytes(32))))
    answers = masked.scalars(questions, present)
    most = (len(present) - plan.threshold - 1) // 2
    liars = rng.choice(present, rng.integers(0, most + 1), replace=False).tolist()
    for liar in liars:
        answers[liar] = lie(plan, answers[liar], questions.count, rng)
    opened = open_scalars(plan, questions, masked.bodies, answers)
    assert opened.usable.all()
    assert set(opened.reasons) == {""}
    assert np.array_equal(opened.values, questions.products(masked.updates))
    assert sorted(opened.wrong) == sorted(liars)
    assert not opened.absent
    assert not opened.refused


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds())
def test_an_opened_sum_is_the_integers_sum(case: Any) -> None:
    plan, rng, masked, present = case
    weights = rng.integers(0, plan.max_weight + 1, len(masked.masked))
    weights[rng.choice(len(weights), 2, replace=False)] = plan.max_weight
    answers = masked.sums(weights, present)
    most = (len(present) - plan.threshold - 1) // 2
    liars = rng.choice(present, rng.integers(0, most + 1), replace=False).tolist()
    for liar in liars:
        answers[liar] = lie(plan, answers[liar], 2048, rng)
    opened = open_sum(plan, masked.seed, masked.bodies, weights, answers)
    assert np.array_equal(opened.total, weights @ masked.updates.astype(np.int64))
    assert not opened.overflowed.any()
    assert sorted(opened.wrong) == sorted(liars)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds())
def test_the_answers_that_t_and_one_shift_alike_fit_nobody_elses_share(case: Any) -> None:
    plan, rng, masked, present = case
    questions = Signs(plan.projections, plan.parameters, rng.bytes(32))
    honest = masked.scalars(questions, range(plan.members))
    answers = {member: honest[member] for member in present}
    for member in range(plan.members):
        fits, misfits = fitting(plan, answers, member, honest[member], width=questions.count)
        assert fits.all()
        assert not misfits.any()
    liars = rng.choice(plan.members, plan.threshold + 1, replace=False).tolist()
    primes = np.array(plan.ring.primes)[:, None]
    for liar in liars:
        words = unpack(plan.ring, honest[liar], width=questions.count, where="answer").copy()
        words[0] = (words[0] + 1) % primes
        answers[liar] = pack(plan.ring, words)
    answers = {liar: answers[liar] for liar in liars}
    for member in range(plan.members):
        fits, misfits = fitting(plan, answers, member, honest[member], width=questions.count)
        assert misfits.tolist() == [True] + [False] * (len(misfits) - 1)
        assert (fits == ~misfits).all()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds())
def test_a_member_contradicts_itself_where_it_lies_and_never_by_what_it_was_dealt(case: Any) -> None:
    plan, rng, masked, _ = case
    questions = Signs(plan.projections, plan.parameters, rng.bytes(32))
    polynomials = question_polynomials(plan.ring, masked.seed, questions)
    weights = rng.integers(0, plan.max_weight + 1, len(masked.masked))
    weights[rng.choice(len(weights), 2, replace=False)] = plan.max_weight
    primes = np.array(plan.ring.primes)[:, None]
    shares = rng.integers(0, primes, (len(weights), 2, 2048)).astype(np.float64)
    held = (weights > 0) | (rng.random(len(weights)) < 0.5)
    scalars = answer_scalars(plan, polynomials, shares, held=held)
    total = answer_sum(plan, shares, weights)
    assert not contradicts_itself(plan, polynomials, weights, scalars, total)
    row = int(rng.choice(np.flatnonzero(weights)))
    words = unpack(plan.ring, scalars, width=questions.count, where="answer", is_absent_allowed=True).copy()
    words[row] = (words[row] + 1) % primes
    assert contradicts_itself(plan, polynomials, weights, pack(plan.ring, words), total)
    assert contradicts_itself(plan, polynomials, weights, scalars, lie(plan, total, 2048, rng))
    for without in np.flatnonzero(weights == 0).tolist():
        words[without] = (words[without] + 1) % primes
    words[row] = (words[row] - 1) % primes
    assert not contradicts_itself(plan, polynomials, weights, pack(plan.ring, words), total)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(256, 5_000_000),
    st.integers(2, 2000),
    st.integers(2, 24),
    st.integers(1, 100),
    st.integers(1, 2),
)
def test_a_plan_keeps_every_bound_or_is_refused(
    parameters: int, cohort: int, bits: int, weight: int, projections: int
) -> None:
    try:
        plan = plan_masking(
            parameters=parameters,
            cohort=cohort,
            bits=bits,
            max_weight=weight,
            members=9,
            threshold=5,
            faulty=1,
            minimum_sum=2,
            projections=projections,
            twin_projections=0,
        )
    except ConfigRefused:
        return
    half, q = plan.modulus / 2, plan.ring.modulus
    assert plan.modulus % 2 == 1
    assert all(plan.modulus % prime for prime in plan.ring.primes)
    assert cohort * weight * plan.levels < half
    assert plan.functional_norm * plan.update_norm < half
    everybody = plan.sum_noise_bound(np.full(cohort, weight))
    projection_norm = Signs(1, parameters, bytes(32)).norms[0]
    scalars = plan.noise_bounds(np.array([plan.functional_norm, projection_norm]))
    for noise in (everybody, *scalars):
        assert plan.modulus * (noise + 0.5) < q / 2
    assert plan.failure_log2 <= -40
    assert plan.scalars >= 2 + projections


@pytest.mark.parametrize("bits", [13, 17])
def test_updates_of_several_blocks_are_exact(bits: int) -> None:
    rng = np.random.default_rng(bits)
    plan = plan_masking(
        parameters=70_001,
        cohort=5,
        bits=bits,
        max_weight=3,
        members=3,
        threshold=1,
        faulty=0,
        minimum_sum=2,
        projections=4,
        twin_projections=2,
    )
    masked = masked_round(plan, updates_of(plan, 3, rng))
    g, _ = quantise_functional(rng.normal(0, 1, 70_001), norm=plan.functional_norm, rng=rng)
    questions = Joined((Signs(4, 70_001, rng.bytes(32)), Dense(g[None])))
    opened = open_scalars(plan, questions, masked.bodies, masked.scalars(questions, [0, 2]))
    assert np.array_equal(opened.values, questions.products(masked.updates))
    weights = np.array([3, 0, 2])
    total = open_sum(plan, masked.seed, masked.bodies, weights, masked.sums(weights, [1, 2]))
    assert np.array_equal(total.total, weights @ masked.updates.astype(np.int64))
