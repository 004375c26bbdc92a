"""The member's law: gate, sum, value of a round in this order, each once, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from galaxylearning.errors import PhaseError, QuorumMissing, UpdateRefused
from galaxylearning.secagg.member import (
    TABLE,
    Asking,
    GateAsked,
    MemberState,
    SumAsked,
    TwinsAsked,
    ValueAsked,
    answer_scalars,
    answer_sum,
    read_share,
    step,
    weights_digest,
)
from galaxylearning.secagg.questions import Dense, question_polynomials
from galaxylearning.units import Digest
from masked_rounds import masked_round, small_plan, updates_of

PLAN = small_plan(parameters=640, projections=3, twin_projections=4, minimum_sum=3)
SET, OTHER = Digest(b"s" * 32), Digest(b"o" * 32)
WEIGHTS = np.array([15, 0, 15, 15])


def _fields(round_index: int, count: int, changes: dict[str, Any]) -> dict[str, Any]:
    return {"round_index": round_index, "accepted": SET, "digest": SET, "count": count} | changes


def gate(round_index: int = 0, **changes: Any) -> GateAsked:
    return GateAsked(**_fields(round_index, 4, changes))


def total(round_index: int = 0, weights: Any = WEIGHTS, accepted: Digest = SET) -> SumAsked:
    return SumAsked(round_index, accepted, weights)


def value(round_index: int = 0, **changes: Any) -> ValueAsked:
    return ValueAsked(**_fields(round_index, 1, changes))


def twins(round_index: int = 0, **changes: Any) -> TwinsAsked:
    return TwinsAsked(**_fields(round_index, 4, changes))


def after(*questions: Any) -> MemberState:
    state = MemberState(PLAN, rounds=3)
    for question in questions:
        state = step(state, question)
    return state


def test_a_job_is_answered_in_order() -> None:
    state = after(
        gate(), total(), value(), gate(1), total(1), value(1), gate(2), total(2), value(2), twins(2)
    )
    assert state.asking is Asking.TWINS
    assert len(state.answered) == 10


def test_rounds_may_end_without_a_sum_or_without_anything() -> None:
    assert after(gate(), gate(2), total(2), twins(2)).round_index == 2
    assert after(gate(), twins(1)).asking is Asking.TWINS


def test_the_same_question_is_answered_again_whenever_it_comes() -> None:
    state = after(gate(), total(), value(), gate(1))
    for question in (gate(), total(weights=WEIGHTS.copy()), value(), gate(1)):
        assert step(state, question) is state


@pytest.mark.parametrize(
    ("before", "question", "message"),
    [
        ((), total(), "not possible after nothing"),
        ((), value(), "not possible after nothing"),
        ((), twins(), "not possible after nothing"),
        ((), gate(3), "must be of round 1 to 3"),
        ((), gate(-1), "must be of round 1 to 3"),
        ((), gate(count=5), "1 to 4 numbers, not 5"),
        ((), gate(count=0), "1 to 4 numbers, not 0"),
        ((gate(),), value(), "not possible after gate"),
        ((gate(),), gate(digest=OTHER), "another question was answered"),
        ((gate(),), gate(accepted=OTHER), "another accepted set"),
        ((gate(),), total(accepted=OTHER), "accepted set is not the gate's"),
        ((gate(),), total(1), "round 1 is under way"),
        ((gate(), total()), total(weights=np.array([14, 0, 14, 14])), "another question was answered"),
        ((gate(), total()), value(accepted=OTHER), "accepted set is not the gate's"),
        ((gate(), total()), value(count=2), "1 to 1 numbers, not 2"),
        ((gate(), total()), value(1), "round 1 is under way"),
        ((gate(), total(), value()), value(digest=OTHER), "another question was answered"),
        ((gate(1),), gate(0), "must be of round 3 to 3"),
        ((gate(0), gate(1)), total(0), "round 2 is under way"),
        ((gate(1),), twins(0), "must be of round 2 to 3"),
        ((gate(),), twins(3), "must be of round 1 to 3"),
        ((gate(),), twins(count=5), "1 to 4 numbers, not 5"),
        ((gate(), twins(0)), gate(1), "not possible after twins"),
        ((gate(), twins(0)), total(0), "not possible after twins"),
        ((gate(), twins(0)), twins(0, digest=OTHER), "another question was answered"),
        ((gate(), twins(0)), twins(1), "not possible after twins"),
    ],
)
def test_whatever_else_is_asked_is_refused(before: Any, question: Any, message: str) -> None:
    state = after(*before)
    with pytest.raises(PhaseError, match=message):
        step(state, question)
    assert state == after(*before)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.array([15, 0, 3, 0]), QuorumMissing, "at least 3 owners, not 2"),
        (np.array([0, 0, 0, 0]), QuorumMissing, "at least 3 owners, not 0"),
        (np.zeros(0, np.int64), QuorumMissing, "at least 3 owners, not 0"),
        (np.array([16, 1, 1, 1]), UpdateRefused, "from 0 to 15"),
        (np.array([-1, 1, 1, 1]), UpdateRefused, "from 0 to 15"),
        (np.ones(11, np.int64), UpdateRefused, "at most 10 owners"),
        (np.ones(4), UpdateRefused, "int64"),
        (np.ones((2, 2), np.int64), UpdateRefused, "int64 of shape"),
    ],
)
def test_sums_that_would_show_too_much_are_refused(weights: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        step(after(gate()), total(weights=weights))
    with pytest.raises(error, match=message):
        answer_sum(
            PLAN, np.zeros((max(1, len(weights)), 2, 2048)), weights if len(weights) else WEIGHTS[:1] * 0
        )


def test_a_weight_that_stands_alone_is_not_answered() -> None:
    with pytest.raises(QuorumMissing, match="weight 14 must be that of at least 3 owners, not 1"):
        step(after(gate()), total(weights=np.array([15, 15, 15, 14])))
    assert step(after(gate()), total(weights=np.array([15, 15, 15, 0]))).asking is Asking.SUM


def test_twins_are_not_asked_where_the_plan_has_none() -> None:
    state = step(MemberState(small_plan(), rounds=1), gate(count=1))
    with pytest.raises(PhaseError, match="numbers"):
        step(state, twins(count=1))


def test_a_job_never_opens_more_than_its_plan() -> None:
    plan = PLAN
    state = after(
        gate(), total(), value(), gate(1), total(1), value(1), gate(2), total(2), value(2), twins(2)
    )
    asked = {kind: 0 for _, kind in TABLE}
    for kind, *_ in state.answered:
        asked[kind] += 1
    assert asked == {GateAsked: 3, SumAsked: 3, ValueAsked: 3, TwinsAsked: 1}
    per_round = (1 + plan.projections) + 1 + plan.twin_projections
    assert per_round <= plan.scalars


def test_weights_have_one_name() -> None:
    names = {weights_digest(np.array(w)) for w in ([1, 2], [2, 1], [1, 2, 0], [1], [0, 1, 2])}
    assert len(names) == 5
    assert weights_digest(WEIGHTS) == weights_digest(WEIGHTS.copy())


def test_shares_of_another_form_are_refused() -> None:
    plan = small_plan()
    masked = masked_round(plan, updates_of(plan, 1, np.random.default_rng(0)))
    share = masked.masked[0].shares[0]
    assert read_share(plan, share).shape == (2, 2048)
    for bad in (share[:-1], share + b"\0", share * 2, b"", b"\xff" * len(share)):
        with pytest.raises(UpdateRefused, match="share"):
            read_share(plan, bad)
    polynomials = question_polynomials(plan.ring, masked.seed, Dense(np.ones((1, 300), np.int64)))
    for shape in ((0, 2, 2048), (11, 2, 2048), (1, 2, 2047), (2, 2048)):
        with pytest.raises(UpdateRefused, match="shares"):
            answer_scalars(plan, polynomials, np.zeros(shape))
