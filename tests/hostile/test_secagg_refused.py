"""Malformed, oversized and lying input to masked rounds: refused by name, or without effect on others."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from galaxylearning.crypto.ring import pack, unpack
from galaxylearning.errors import NoSharing, QuorumMissing, UpdateRefused
from galaxylearning.secagg.member import answer_scalars, check_questions
from galaxylearning.secagg.opener import (
    NO_SHARES,
    NO_SHARING,
    NOISE,
    OpenedScalars,
    check_body,
    check_words,
    open_scalars,
    open_sum,
    owners_left_out,
)
from galaxylearning.secagg.owner import Masked, mask_update, public_seed
from galaxylearning.secagg.questions import Dense, Joined, Signs, question_polynomials
from galaxylearning.units import Address, Digest
from masked_rounds import SEED, Round, masked_round, small_plan, updates_of

PLAN = small_plan()
WIDE_PLAN = small_plan(bits=18)
QUESTIONS = Signs(2, 300, b"q" * 32)
EVERYBODY = range(6)


@pytest.fixture(name="dealt", scope="module")
def dealt_() -> Round:
    return masked_round(PLAN, updates_of(PLAN, 4, np.random.default_rng(5)))


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (np.zeros(299, np.int32), "300 elements"),
        (np.zeros(300, np.int64), "int32"),
        (np.zeros((1, 300), np.int32), "one dimension"),
        (np.full(300, 4096, np.int32), "±4095"),
        (np.full(300, -(2**31), np.int32), "±4095"),
        (np.full(300, 300, np.int32), "L2 norm"),
        ([0] * 300, "numpy array"),
    ],
)
def test_an_update_out_of_range_is_refused_before_anything_is_drawn(update: Any, message: str) -> None:
    def entropy(count: int) -> bytes:
        raise AssertionError(count)

    with pytest.raises(UpdateRefused, match=message):
        mask_update(PLAN, SEED, update, entropy=entropy)


def test_the_largest_update_is_taken() -> None:
    update = np.zeros(300, np.int32)
    update[7] = -4095
    assert len(mask_update(PLAN, SEED, update, entropy=os.urandom).body) == PLAN.body_bytes


def test_bodies_of_another_length_ring_or_residue_are_refused(dealt: Round) -> None:
    body = dealt.bodies[0]
    check_body(PLAN, body)
    high = body[: -PLAN.ring.row_bytes] + b"\xff" * PLAN.ring.row_bytes
    for bad in (body[:-1], body + b"\0", b"", bytes(WIDE_PLAN.body_bytes), high, "text"):
        with pytest.raises(UpdateRefused, match="body"):
            check_body(PLAN, bad)  # type: ignore[arg-type]
        answers = dealt.scalars(QUESTIONS, EVERYBODY)
        with pytest.raises(UpdateRefused, match="body 2"):
            open_scalars(PLAN, QUESTIONS, [*dealt.bodies[:2], bad, dealt.bodies[3]], answers)  # type: ignore[list-item]


def test_bodies_are_taken_for_owners_only(dealt: Round) -> None:
    answers = dealt.scalars(QUESTIONS, EVERYBODY)
    with pytest.raises(UpdateRefused, match="bodies"):
        open_scalars(PLAN, QUESTIONS, [], answers)
    with pytest.raises(UpdateRefused, match="1 to 10, not 12"):
        open_scalars(PLAN, QUESTIONS, dealt.bodies * 3, answers)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (Signs(2, 301, bytes(32)), "300 parameters"),
        (Signs(5, 300, bytes(32)), "at most 4 numbers"),
        (Dense(np.full((1, 300), 1 << 20)), "L2 norm of at most"),
        (Dense(np.eye(1, 300, 7, np.int64)), "one coordinate"),
        (Joined((Signs(1, 300, bytes(32)), Dense(np.eye(1, 300, 7, np.int64) * 30 + 1))), "one coordinate"),
    ],
)
def test_questions_beyond_the_plan_are_refused(dealt: Round, questions: Any, message: str) -> None:
    with pytest.raises(UpdateRefused, match=message):
        check_questions(PLAN, questions)
    with pytest.raises(UpdateRefused, match=message):
        open_scalars(PLAN, questions, dealt.bodies, {})


def test_questions_spread_over_coordinates_are_taken() -> None:
    check_questions(PLAN, Dense(np.eye(1, 300, 7, np.int64) * 10 + 1))
    check_questions(PLAN, Dense(np.zeros((1, 300), np.int64)))


def test_malformed_answers_are_left_out_by_name(dealt: Round) -> None:
    answers = dealt.scalars(QUESTIONS, EVERYBODY)
    answers[1] = answers[1][:-1]
    answers[4] = b"\xff" * (len(answers[4]) - 1) + b"\xfe"
    opened = open_scalars(PLAN, QUESTIONS, dealt.bodies, answers)
    assert sorted(opened.refused) == [1, 4]
    assert np.array_equal(opened.values, QUESTIONS.products(dealt.updates))
    weights = np.array([1, 2, 3, 4])
    sums = dealt.sums(weights, EVERYBODY)
    sums[0], sums[5] = sums[0] * 2, b"\xff" * len(sums[5])
    found = open_sum(PLAN, SEED, dealt.bodies, weights, sums)
    assert sorted(found.refused) == [0, 5]
    assert np.array_equal(found.total, weights @ dealt.updates)


def test_too_few_answers_open_nothing(dealt: Round) -> None:
    weights = np.array([1, 2, 3, 4])
    for members in ([], [3], [0, 5]):
        with pytest.raises(QuorumMissing, match=f"needs 3 members, has {len(members)}"):
            open_scalars(PLAN, QUESTIONS, dealt.bodies, dealt.scalars(QUESTIONS, members))
        with pytest.raises(QuorumMissing, match=f"needs 3 members, has {len(members)}"):
            open_sum(PLAN, SEED, dealt.bodies, weights, dealt.sums(weights, members))
    with pytest.raises(UpdateRefused, match="members are 0 to 5"):
        open_sum(PLAN, SEED, dealt.bodies, weights, {6: b""})


def test_a_sum_below_the_minimum_or_of_other_weights_is_refused(dealt: Round) -> None:
    weights = np.array([1, 1, 0, 0])
    answers = dealt.sums(weights, EVERYBODY)
    assert open_sum(PLAN, SEED, dealt.bodies, weights, answers).total.shape == (300,)
    with pytest.raises(QuorumMissing, match="at least 2 owners, not 1"):
        open_sum(PLAN, SEED, dealt.bodies, np.array([1, 0, 0, 0]), answers)
    with pytest.raises(UpdateRefused, match="from 0 to 15"):
        open_sum(PLAN, SEED, dealt.bodies, np.array([16, 1, 0, 0]), answers)
    with pytest.raises(UpdateRefused, match="shape"):
        open_sum(PLAN, SEED, dealt.bodies, np.array([1, 1, 0]), answers)


def test_answers_to_another_sum_open_nothing(dealt: Round) -> None:
    """A subtraction of two sums never happens by mistake: what does not belong together does not open."""
    answers = dealt.sums(np.array([1, 1, 1, 0]), EVERYBODY)
    with pytest.raises(QuorumMissing, match="out of range"):
        open_sum(PLAN, SEED, dealt.bodies, np.array([1, 1, 0, 1]), answers)


def test_a_lie_among_as_few_answers_as_open_a_sum_opens_nothing(dealt: Round) -> None:
    weights = np.array([1, 2, 3, 4])
    sums = dealt.sums(weights, [0, 1, 2])
    words = unpack(PLAN.ring, sums[2], width=2048, where="answer")
    sums[2] = pack(PLAN.ring, (words + 1) % np.array(PLAN.ring.primes)[:, None])
    with pytest.raises(QuorumMissing, match="a lie among 3 answers") as caught:
        open_sum(PLAN, SEED, dealt.bodies, weights, sums)
    # Data owners can bring this about as well, so no member is blamed for it.
    assert not isinstance(caught.value, NoSharing)


def test_answers_that_cannot_be_read_are_known_before_they_are_counted_on(dealt: Round) -> None:
    scalars = dealt.scalars(QUESTIONS, [0])[0]
    check_words(PLAN, scalars, QUESTIONS.count, is_sum=False)
    absent = pack(PLAN.ring, np.full((4, 2, QUESTIONS.count), PLAN.ring.absent))
    check_words(PLAN, absent, QUESTIONS.count, is_sum=False)
    for words, is_sum in ((absent, True), (scalars[:-1], False), (b"", False)):
        with pytest.raises(UpdateRefused, match="answer"):
            check_words(PLAN, words, QUESTIONS.count, is_sum=is_sum)


def test_threshold_members_open_nothing(dealt: Round) -> None:
    """T answers and a guess at one more: what comes out is noise."""
    answers = dealt.scalars(QUESTIONS, [0, 1])
    answers[2] = pack(PLAN.ring, np.zeros((4, 2, 2)))
    opened = open_scalars(PLAN, QUESTIONS, dealt.bodies, answers)
    assert not opened.usable.all()
    assert not np.array_equal(opened.values, QUESTIONS.products(dealt.updates))


def test_more_liars_than_can_be_told_apart_open_nothing(dealt: Round) -> None:
    answers = dealt.scalars(QUESTIONS, EVERYBODY)
    rng = np.random.default_rng(0)
    for member in range(5):
        answers[member] = pack(PLAN.ring, rng.integers(0, 900_000, (4, 2, 2)).astype(float))
    opened = open_scalars(PLAN, QUESTIONS, dealt.bodies, answers)
    assert set(opened.reasons) == {NO_SHARING}
    assert not opened.values.any()
    weights = np.array([1, 2, 3, 4])
    sums = dealt.sums(weights, EVERYBODY)
    for member in range(5):
        sums[member] = pack(PLAN.ring, rng.integers(0, 900_000, (1, 2, 2048)).astype(float))
    with pytest.raises(NoSharing, match="more members lie than 6 can tell"):
        open_sum(PLAN, SEED, dealt.bodies, weights, sums)


def test_a_share_of_another_member_or_round_is_a_wrong_answer(dealt: Round) -> None:
    other = masked_round(PLAN, dealt.updates)
    polynomials = question_polynomials(PLAN.ring, SEED, QUESTIONS)
    answers = dealt.scalars(QUESTIONS, EVERYBODY)
    for wrong in (dealt.shares(1), other.shares(0)):
        answers[0] = answer_scalars(PLAN, polynomials, wrong)
        opened = open_scalars(PLAN, QUESTIONS, dealt.bodies, answers)
        assert opened.usable.all()
        assert opened.wrong == {0: (0, 1, 2, 3)}


def test_a_member_without_a_share_says_so(dealt: Round) -> None:
    polynomials = question_polynomials(PLAN.ring, SEED, QUESTIONS)
    answers = dealt.scalars(QUESTIONS, EVERYBODY)
    for member in range(4):
        held = np.array([True, member > 0, False, True])
        answers[member] = answer_scalars(PLAN, polynomials, dealt.shares(member), held=held)
    opened = open_scalars(PLAN, QUESTIONS, dealt.bodies, answers)
    assert opened.absent == {0: (1, 2), 1: (2,), 2: (2,), 3: (2,)}
    assert opened.reasons == ("", "", NO_SHARES, "")
    assert not opened.wrong
    expected = QUESTIONS.products(dealt.updates)
    expected[2] = 0
    assert np.array_equal(opened.values, expected)


@pytest.mark.parametrize(
    ("wrong", "absent", "expected"),
    [
        ({}, {}, ()),
        ({2: (0, 1, 2, 3)}, {}, ()),
        ({}, {2: (0, 1, 2, 3)}, ()),
        ({}, {2: (1,), 4: (1,)}, (1,)),
        ({2: (1,)}, {4: (1,)}, (1,)),
        ({2: (1,)}, {2: (1, 3)}, ()),
        ({}, {0: (0,), 1: (1,), 2: (2,)}, (1, 2)),
        ({3: (0, 1, 2)}, {1: (1,), 5: (3,)}, (1, 3)),
    ],
)
def test_dealers_that_cheat_members_are_left_out_and_one_liar_leaves_nobody_out(
    wrong: Any, absent: Any, expected: Any
) -> None:
    values = np.zeros((4, 1), np.int64)
    opened = OpenedScalars(values, values[:, 0] == 0, ("",) * 4, wrong, absent, {})
    assert owners_left_out(PLAN, opened) == expected


@pytest.mark.parametrize(
    ("faulty", "wrong", "expected"),
    [
        # Two honest members whom four dealers cheated, and two liars that share the honest owners out.
        (2, {0: (6, 7, 8, 9), 1: (6, 7, 8, 9), 7: (0, 1, 2), 8: (3, 4, 5)}, (6, 7, 8, 9)),
        (2, {0: (6, 7, 8, 9), 7: (0, 1, 2), 8: (3, 4, 5)}, (3, 4, 5)),
        (2, {0: (6,), 1: (7,), 2: (8,), 8: (0, 1, 2, 3, 4, 5)}, (7, 8)),
        (1, {0: (6, 7, 8, 9), 4: (0, 1, 2, 3, 4)}, (6, 7, 8, 9)),
        (1, {0: (6, 7, 8, 9), 4: (0, 1, 2, 3)}, (0, 1, 2, 3)),
        (0, {0: (6,)}, (6,)),
    ],
)
def test_liars_leave_out_no_more_owners_than_there_are_dealers(
    faulty: int, wrong: Any, expected: Any
) -> None:
    values = np.zeros((10, 1), np.int64)
    opened = OpenedScalars(values, values[:, 0] == 0, ("",) * 10, wrong, {}, {})
    assert owners_left_out(replace(PLAN, faulty=faulty), opened) == expected


@pytest.mark.parametrize(
    ("refuted", "expected"),
    [
        ((), ()),
        (({2},), (1,)),
        (({2}, {4}), (0, 1)),
        (({2, 4},), ()),
    ],
)
def test_members_that_cannot_all_have_lied_are_not_ignored_together(refuted: Any, expected: Any) -> None:
    values = np.zeros((4, 1), np.int64)
    wrong = {2: (1,)} if len(refuted) < 2 else {2: (1,), 4: (0,)}
    opened = OpenedScalars(values, values[:, 0] == 0, ("",) * 4, wrong, {}, {})
    assert owners_left_out(PLAN, opened, [frozenset(each) for each in refuted]) == expected


def test_dealers_who_each_cheat_another_member_do_not_stop_the_sum() -> None:
    rng = np.random.default_rng(8)
    honest = masked_round(PLAN, updates_of(PLAN, 8, rng))
    held = np.ones((6, 8), bool)
    for dealer in range(4):
        held[dealer, dealer] = False
    polynomials = question_polynomials(PLAN.ring, SEED, QUESTIONS)
    answers = {m: answer_scalars(PLAN, polynomials, honest.shares(m), held=held[m]) for m in EVERYBODY}
    opened = open_scalars(PLAN, QUESTIONS, honest.bodies, answers)
    left_out = owners_left_out(PLAN, opened)
    assert set(left_out) <= {0, 1, 2, 3}
    weights = np.where(np.isin(np.arange(8), left_out), 0, 5)
    able = [m for m in EVERYBODY if held[m][weights > 0].all()]
    assert len(able) >= PLAN.members - PLAN.faulty
    found = open_sum(PLAN, SEED, honest.bodies, weights, honest.sums(weights, able))
    assert np.array_equal(found.total, weights @ honest.updates)


def test_an_oversized_update_shows_and_spoils_its_own_coordinates_only() -> None:
    """Who masks what it may not loses its answer, and no more than the coordinates it overdid."""
    room = PLAN.ring.modulus // PLAN.modulus
    updates = np.zeros((3, 300), np.int32)
    updates[0], updates[1, 5] = 1, 3
    honest = masked_round(PLAN, updates)
    # As an owner who adds huge errors: c + t * k.
    spoiled = np.zeros((1, 2, 2048))
    for index, prime in enumerate(PLAN.ring.primes):
        spoiled[0, index, 9] = room // 3 * PLAN.modulus % prime
    found = pack(PLAN.ring, _added(PLAN, honest.bodies[2], spoiled))
    bodies = [*honest.bodies[:2], found]
    opened = open_scalars(PLAN, QUESTIONS, bodies, honest.scalars(QUESTIONS, EVERYBODY))
    assert opened.reasons == ("", "", NOISE)
    assert not opened.values[2].any()
    weights = np.array([1, 2, 1])
    total = open_sum(PLAN, SEED, bodies, weights, honest.sums(weights, EVERYBODY))
    expected = weights @ updates
    expected[9] = 0
    assert np.array_equal(total.total, expected)
    assert np.flatnonzero(total.overflowed).tolist() == [9]


def _added(plan: Any, body: bytes, more: Any) -> Any:
    residues = unpack(plan.ring, body, width=2048, where="body") + more
    return np.stack([residues[:, i] % p for i, p in enumerate(plan.ring.primes)], axis=1)


def test_a_norm_beyond_the_plan_shows_in_projections() -> None:
    larger = replace(PLAN, bits=22)
    updates = np.zeros((2, 300), np.int32)
    updates[1] = 60_000
    masked = [mask_update(larger, SEED, row, entropy=os.urandom) for row in updates]
    dealt = Round(PLAN, updates, tuple(masked))
    opened = open_scalars(PLAN, QUESTIONS, dealt.bodies, dealt.scalars(QUESTIONS, EVERYBODY))
    assert np.array_equal(opened.values, PLAN.shown(QUESTIONS.products(updates)))


def test_nothing_repeats_between_two_maskings_of_one_update() -> None:
    update = np.zeros(300, np.int32)
    one, two = (mask_update(PLAN, SEED, update, entropy=os.urandom) for _ in range(2))
    for left, right in zip((one.body, *one.shares), (two.body, *two.shares), strict=True):
        same = np.frombuffer(left, np.uint8) == np.frombuffer(right, np.uint8)
        assert same.mean() < 0.05
    assert len({one.body, *one.shares}) == 7
    assert isinstance(one, Masked)


def test_every_round_has_its_own_public_seed() -> None:
    base: dict[str, Any] = {
        "chain_id": 1,
        "contract": Address("0x" + "ab" * 20),
        "job_id": 2,
        "round_index": 3,
        "model_digest": Digest(b"m" * 32),
    }
    others: list[dict[str, Any]] = [
        {},
        {"chain_id": 2},
        {"contract": Address("0x" + "ac" * 20)},
        {"job_id": 3},
        {"round_index": 4},
        {"model_digest": Digest(b"n" * 32)},
    ]
    seeds = {public_seed(**(base | change)) for change in others}
    assert len(seeds) == 6
    assert {len(seed) for seed in seeds} == {32}
