"""Ways to one update through the openings: below the minimum, by difference, by coordinate, by choice.

The attackers here hold everything that is public and the shares of T members; one more member is honest and
answers as :mod:`galaxylearning.secagg.member` allows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from galaxylearning.crypto.ring import DEGREE, F64, pack
from galaxylearning.crypto.shamir import recover, share
from galaxylearning.errors import PhaseError, QuorumMissing, UpdateRefused
from galaxylearning.secagg.member import (
    GateAsked,
    MemberState,
    Question,
    SumAsked,
    TwinsAsked,
    ValueAsked,
    answer_sum,
    check_questions,
    read_share,
    step,
)
from galaxylearning.secagg.opener import open_scalars, open_sum
from galaxylearning.secagg.owner import mask_update
from galaxylearning.secagg.questions import (
    Dense,
    Joined,
    Questions,
    Signs,
    quantise_functional,
    question_polynomials,
)
from galaxylearning.units import Digest
from masked_rounds import SEED, Round, masked_round, small_plan, updates_of

OWNERS, VICTIM, HONEST = 6, 2, 5
COLLUDERS = (0, 1)
PLAN = small_plan(parameters=1280, projections=3, twin_projections=4, minimum_sum=3)
SET, OTHER_SET = Digest(b"s" * 32), Digest(b"o" * 32)
WEIGHTS = np.array([1, 1, 1, 2, 2, 2])


def dense(*vectors: Any) -> Dense:
    return Dense(np.array(vectors, np.int64))


def coordinate(at: int, size: int = 1) -> Dense:
    return dense(np.eye(1, PLAN.parameters, at, np.int64)[0] * size)


def drawn_question(seed: int) -> Dense:
    rng = np.random.default_rng(seed)
    vector, _ = quantise_functional(rng.normal(size=PLAN.parameters), norm=PLAN.functional_norm, rng=rng)
    return dense(vector)


GATE = Joined((drawn_question(1), Signs(3, PLAN.parameters, b"g" * 32)))
VALUE = drawn_question(2)
TWINS = Signs(4, PLAN.parameters, b"t" * 32)


@dataclass
class HonestMember:
    """Answers what follows from the committed test set (``own``), as its law allows; nothing else."""

    round: Round
    own: dict[type[Question], Questions] = field(
        default_factory=lambda: {GateAsked: GATE, ValueAsked: VALUE, TwinsAsked: TWINS}
    )
    state: MemberState = field(default_factory=lambda: MemberState(PLAN, rounds=2))

    def scalars(self, kind: Any, asked: Questions, *, accepted: Digest = SET, round_index: int = 0) -> bytes:
        check_questions(PLAN, asked)
        own = self.own[kind]
        if asked.digest != own.digest:
            raise PhaseError("is not what follows from the test set", where=kind.__name__)
        self.state = step(self.state, kind(round_index, accepted, own.digest, own.count))
        return self.round.scalars(own, [HONEST])[HONEST]

    def sum(self, weights: Any, *, accepted: Digest = SET) -> bytes:
        self.state = step(self.state, SumAsked(0, accepted, weights))
        return self.round.sums(weights, [HONEST])[HONEST]


@pytest.fixture(name="dealt", scope="module")
def dealt_() -> Round:
    return masked_round(PLAN, updates_of(PLAN, OWNERS, np.random.default_rng(11)))


@pytest.fixture(name="honest")
def honest_(dealt: Round) -> HonestMember:
    return HonestMember(dealt)


def with_colluders(dealt: Round, questions: Questions, answer: bytes) -> dict[int, bytes]:
    return dealt.scalars(questions, COLLUDERS) | {HONEST: answer}


def test_the_questions_that_follow_are_answered_and_open(dealt: Round, honest: HonestMember) -> None:
    answers = with_colluders(dealt, GATE, honest.scalars(GateAsked, GATE))
    assert np.array_equal(
        open_scalars(PLAN, GATE, dealt.bodies, answers).values, GATE.products(dealt.updates)
    )
    sums = dealt.sums(WEIGHTS, COLLUDERS) | {HONEST: honest.sum(WEIGHTS)}
    total = open_sum(PLAN, SEED, dealt.bodies, WEIGHTS, sums).total
    assert np.array_equal(total, WEIGHTS @ dealt.updates.astype(np.int64))
    answers = with_colluders(dealt, VALUE, honest.scalars(ValueAsked, VALUE))
    assert open_scalars(PLAN, VALUE, dealt.bodies, answers).usable.all()
    assert honest.scalars(TwinsAsked, TWINS, round_index=1)


# ---- a sum below the minimum


@pytest.mark.parametrize("weights", [[0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
def test_no_sum_below_the_minimum(dealt: Round, honest: HonestMember, weights: list[int]) -> None:
    honest.scalars(GateAsked, GATE)
    before = honest.state
    with pytest.raises(QuorumMissing, match="at least 3 owners"):
        honest.sum(np.array(weights))
    assert honest.state == before
    with pytest.raises(QuorumMissing, match="at least 3 owners"):
        answer_sum(PLAN, dealt.shares(HONEST), np.array(weights))


@pytest.mark.parametrize("weights", [[15, 15, 14, 15, 15, 15], [1, 1, 2, 2, 0, 1], [1, 2, 3, 4, 5, 6]])
def test_no_weight_stands_alone(honest: HonestMember, weights: list[int]) -> None:
    """Modulo a factor of all other weights, such a sum is one update."""
    honest.scalars(GateAsked, GATE)
    before = honest.state
    with pytest.raises(QuorumMissing, match="must be that of at least 3 owners"):
        honest.sum(np.array(weights))
    assert honest.state == before
    assert honest.sum(WEIGHTS)


def test_what_colluders_add_up_alone_is_not_a_sum(dealt: Round) -> None:
    """T members answer for the victim alone; without one more, what opens is noise or nothing."""
    alone = np.array([0, 0, 1, 0, 0, 0])
    lone_shares = {
        m: pack(PLAN.ring, dealt.shares(m)[VICTIM][:, None, :].transpose(1, 0, 2)) for m in COLLUDERS
    }
    with pytest.raises(QuorumMissing):
        open_sum(PLAN, SEED, dealt.bodies, alone, lone_shares)
    three = np.array([0, 1, 1, 1, 0, 0])
    with pytest.raises(QuorumMissing, match="needs 3 members, has 2"):
        open_sum(PLAN, SEED, dealt.bodies, three, dealt.sums(three, COLLUDERS))


# ---- a second sum, whose difference to the first is one update


@pytest.mark.parametrize(
    ("weights", "accepted"),
    [
        ([1, 1, 2, 2, 2, 2], SET),
        ([1, 1, 0, 2, 2, 2], SET),
        ([1, 1, 1, 2, 2, 2], OTHER_SET),
    ],
)
def test_no_second_sum(honest: HonestMember, weights: list[int], accepted: Digest) -> None:
    honest.scalars(GateAsked, GATE)
    first = honest.sum(WEIGHTS)
    before = honest.state
    with pytest.raises(PhaseError):
        honest.sum(np.array(weights), accepted=accepted)
    assert honest.state == before
    assert honest.sum(WEIGHTS) == first


def test_no_second_sum_in_a_later_phase(honest: HonestMember) -> None:
    honest.scalars(GateAsked, GATE)
    honest.sum(WEIGHTS)
    honest.scalars(ValueAsked, VALUE)
    other = np.array([1, 1, 0, 2, 2, 2])
    for _ in range(2):
        with pytest.raises(PhaseError):
            honest.sum(other)
        honest.scalars(TwinsAsked, TWINS, round_index=1)


def test_two_answers_to_one_sum_give_no_difference(dealt: Round) -> None:
    """Colluders answer another sum than the honest member does: the words fit no sharing of either."""
    other = np.ones(OWNERS, np.int64)
    mixed = dealt.sums(other, COLLUDERS) | dealt.sums(WEIGHTS, [HONEST])
    for weights in (WEIGHTS, other):
        with pytest.raises(QuorumMissing, match="a lie among 3 answers"):
            open_sum(PLAN, SEED, dealt.bodies, weights, mixed)


# ---- a coordinate


@pytest.mark.parametrize(
    "question",
    [
        coordinate(7),
        coordinate(1279, -1000),
        dense(np.eye(1, 1280, 3, np.int64)[0] * 40 + 1),
        Joined((Signs(1, 1280, b"x" * 32), coordinate(0, 5))),
        Joined((drawn_question(1), coordinate(0))),
    ],
)
def test_no_coordinate(dealt: Round, honest: HonestMember, question: Questions) -> None:
    with pytest.raises(UpdateRefused, match="one coordinate"):
        honest.scalars(GateAsked, question)
    assert not honest.state.answered
    with pytest.raises(UpdateRefused, match="one coordinate"):
        open_scalars(PLAN, question, dealt.bodies, dealt.scalars(question, (*COLLUDERS, HONEST)))


def test_no_more_numbers_than_the_plan(honest: HonestMember) -> None:
    with pytest.raises(UpdateRefused, match=f"at most {PLAN.scalars} numbers"):
        honest.scalars(GateAsked, Signs(PLAN.scalars + 1, PLAN.parameters, b"m" * 32))


# ---- a functional that somebody chose


@pytest.mark.parametrize("kind", [GateAsked, ValueAsked, TwinsAsked])
def test_no_functional_that_a_colluder_chose(honest: HonestMember, kind: Any) -> None:
    chosen = drawn_question(99)
    if kind is not GateAsked:
        honest.scalars(GateAsked, GATE)
        honest.sum(WEIGHTS)
    before = honest.state
    with pytest.raises(PhaseError, match="is not what follows"):
        honest.scalars(kind, chosen)
    assert honest.state == before


def test_no_other_functional_once_one_was_answered(honest: HonestMember) -> None:
    """Even a member whose own computation changed (a reorganised chain) gives no second answer."""
    honest.scalars(GateAsked, GATE)
    honest.own[GateAsked] = drawn_question(98)
    with pytest.raises(PhaseError, match="another question"):
        honest.scalars(GateAsked, honest.own[GateAsked])
    honest.own[GateAsked] = GATE
    with pytest.raises(PhaseError, match="another accepted set"):
        honest.scalars(GateAsked, GATE, accepted=OTHER_SET)


def test_colluders_cannot_bend_an_honest_answer_to_their_question(dealt: Round, honest: HonestMember) -> None:
    """T answers to their own functional and the honest one to the value's: nothing usable opens."""
    chosen = drawn_question(97)
    honest.scalars(GateAsked, GATE)
    honest.sum(WEIGHTS)
    answers = with_colluders(dealt, chosen, honest.scalars(ValueAsked, VALUE))
    opened = open_scalars(PLAN, chosen, dealt.bodies, answers)
    wanted = chosen.products(dealt.updates)
    assert not (opened.usable & (opened.values == wanted).all(axis=1)).any()


def test_answers_of_a_round_span_few_dimensions_of_a_share(dealt: Round) -> None:
    """All that a member says of a share in a round: as many equations as questions, of 2,048 unknowns."""
    asked = Joined((GATE, VALUE, TWINS))
    polynomials = question_polynomials(PLAN.ring, SEED, asked)
    rank = int(np.linalg.matrix_rank(polynomials[:, 0]))
    assert rank == asked.count <= PLAN.scalars < DEGREE // 8


# ---- T members' shares


@pytest.mark.parametrize("threshold", [1, 2, 5])
def test_the_shares_of_t_members_fit_every_secret(threshold: int) -> None:
    """Perfect secrecy by completion: T shares and any candidate for the secret are one sharing of it."""
    ring, members = PLAN.ring, threshold + 2
    rng = np.random.default_rng(threshold)

    def random_secret() -> F64:
        return np.stack([rng.integers(0, prime, DEGREE).astype(np.float64) for prime in ring.primes])

    shares = share(ring, random_secret(), members=members, threshold=threshold, entropy=os.urandom)
    for candidate in (random_secret(), np.zeros((2, DEGREE))):
        completed = _completed(
            shares[:threshold], candidate, [m + 1 for m in range(threshold)], threshold + 1
        )
        answers = np.concatenate([shares[:threshold], completed[None]])
        found = recover(ring, answers, members=list(range(threshold + 1)), threshold=threshold)
        assert found.decoded.all()
        assert np.array_equal(found.values, candidate)
    with pytest.raises(ValueError, match="more than threshold"):
        recover(ring, shares[:threshold], members=list(range(threshold)), threshold=threshold)


def _completed(shares: F64, secret: F64, points: list[int], at: int) -> F64:
    """The value at ``at``, f64[2, N], of what goes through ``secret`` at 0 and ``shares`` at ``points``."""
    found = np.empty_like(secret)
    base = [0, *points]
    for index, prime in enumerate(PLAN.ring.primes):
        total = np.zeros(DEGREE, object)
        for own, values in zip(base, [secret, *shares], strict=True):
            factor = 1
            for other in base:
                if other != own:
                    factor = factor * (at - other) * pow(own - other, -1, prime) % prime
            total = (total + factor * values[index].astype(np.int64).astype(object)) % prime
        found[index] = total.astype(np.float64)
    return found


def test_every_candidate_update_has_consistent_shares(dealt: Round) -> None:
    """For any other update there are a secret and shares that agree with all T members hold."""
    other = mask_update(PLAN, SEED, dealt.updates[VICTIM] * 0, entropy=os.urandom)
    held = np.stack([dealt.shares(member)[VICTIM] for member in COLLUDERS])
    secret_of_other = recover(
        PLAN.ring,
        np.stack([read_share(PLAN, other.shares[member]) for member in range(3)]),
        members=[0, 1, 2],
        threshold=PLAN.threshold,
    ).values
    third = _completed(held, secret_of_other, [1, 2], 3)
    found = recover(
        PLAN.ring, np.concatenate([held, third[None]]), members=[0, 1, 2], threshold=PLAN.threshold
    )
    assert np.array_equal(found.values, secret_of_other)


def test_shares_of_another_round_open_nothing(dealt: Round) -> None:
    again = masked_round(PLAN, dealt.updates)
    opened = open_scalars(PLAN, GATE, dealt.bodies, again.scalars(GATE, range(4)))
    assert not opened.usable.any()
    assert open_scalars(PLAN, GATE, again.bodies, again.scalars(GATE, range(4))).usable.all()
