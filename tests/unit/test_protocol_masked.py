"""A masked round step by step: questions in order, answers of the right shape, and what follows from them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from galaxylearning.contribution import to_fixed
from galaxylearning.errors import JobRefused, PhaseError, UpdateRefused
from galaxylearning.graph import FlatModel
from galaxylearning.learning import UpdateMatrix, aggregate
from galaxylearning.learning.gate import AGAINST_REFERENCE, STANDS_BADLY
from galaxylearning.learning.standing import FEWEST_ROUNDS
from galaxylearning.learning.vectors import F64
from galaxylearning.messages.plan import Masking, Plan
from galaxylearning.messages.terms import EvaluatorSeat, Terms
from galaxylearning.protocol import outcomes
from galaxylearning.protocol.hidden_set import HiddenSet
from galaxylearning.protocol.masked_round import (
    BAD_SHARES,
    OUT_OF_RANGE,
    STANDS_ALONE,
    MaskedRound,
    blunted,
    carried,
)
from galaxylearning.protocol.masking import (
    default_masking,
    default_projections,
    few_projections,
    masked_plan,
    masking_plan,
    question_seed,
    simulated_beacon,
)
from galaxylearning.protocol.outcomes import RoundOutcome
from galaxylearning.protocol.rounds import NO_SUM, JobComputation
from galaxylearning.protocol.scoring import score_table
from galaxylearning.secagg.plan import allowed_scalars
from galaxylearning.secagg.weights import check_carried
from plain_rounds import HIDDEN, OWNERS, PLAN, build, make_terms, trained

BEACON = bytes(range(32))
MASKED = msgspec.structs.replace(PLAN, minimum_owners=3, projections=9)


def masked_terms(plan: Plan = MASKED, masking: Masking | None = None, *, privacy: str = "masked") -> Terms:
    seats = tuple(EvaluatorSeat(f"0x{9 + seat:040d}", "ab" * 32, "ab" * 32) for seat in range(5))
    how = masking or Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=9)
    masking = how if privacy == "masked" else None
    return msgspec.structs.replace(
        make_terms(), plan=plan, evaluators=seats, privacy=privacy, masking=masking
    )


@pytest.fixture(scope="module")
def wide() -> FlatModel:
    torch.manual_seed(1)
    return build(nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 2)))


def job_of(model: FlatModel, terms: Terms | None = None) -> JobComputation:
    terms = terms or masked_terms()
    return JobComputation(terms, 7, model, HiddenSet.split(HIDDEN, seed=terms.seed))


def matrix(job: JobComputation) -> UpdateMatrix:
    rows = np.array([trained(job, who)[0] for who in OWNERS], np.int16)
    return UpdateMatrix(OWNERS, rows, np.zeros((len(rows), 0), np.int32), job.terms.plan.bits)


def opened(job: JobComputation, updates: UpdateMatrix) -> tuple[MaskedRound, RoundOutcome]:
    """The next round, its questions answered one by one."""
    under_way, rows = job.begin_masked(updates.owners, BEACON), updates.parameters
    gated = under_way.take_gate(under_way.gate_questions().products(rows))
    under_way.take_sum(aggregate(rows, gated.weights)[0])
    question = under_way.value_questions()
    assert question is not None
    return under_way, under_way.finish(question.products(rows))


def test_step_by_step_and_at_once_are_the_same(wide: FlatModel) -> None:
    one, other = job_of(wide), job_of(wide)
    for _ in range(2):
        updates = matrix(one)
        _, first = opened(one, updates)
        second = other.advance_updates(updates, beacon=BEACON)
        assert first.model_digest == second.model_digest
        for name in ("codes", "weights", "cosines", "values", "errors"):
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name
    assert one.outcomes[0].values.sum() > 0


def test_sealed_mode_decides_alike_and_values_alike(wide: FlatModel) -> None:
    masked, sealed = job_of(wide), job_of(wide, masked_terms(privacy="sealed"))
    for _ in range(2):
        updates = matrix(masked)
        first = masked.advance_updates(updates, beacon=BEACON)
        second = sealed.advance_updates(updates, beacon=BEACON)
        assert first.weights.tolist() == second.weights.tolist()
        assert first.model_digest == second.model_digest
        assert np.abs(first.values - second.values).max() < 1e-3 * np.abs(second.values).sum()
        # One scalar an update: standard errors are those of the mean step, by length.
        some = second.errors > 0
        assert np.array_equal(some, first.errors > 0)
        assert np.all(np.abs(np.log(first.errors[some] / second.errors[some])) < np.log(10))


def test_other_randomness_asks_for_other_projections(wide: FlatModel) -> None:
    job = job_of(wide)
    first, same, other = (job.begin_masked(OWNERS, beacon) for beacon in (BEACON, BEACON, bytes(32)))
    assert first.gate_questions().digest == same.gate_questions().digest != other.gate_questions().digest
    seeds = {
        question_seed(BEACON, purpose, job_id=job_id, round_index=index)
        for purpose in ("gate", "projections", "value", "twins")
        for job_id in (1, 2)
        for index in (0, 1)
    }
    assert len(seeds) == 16
    assert simulated_beacon(0) != simulated_beacon(1)


def test_steps_are_taken_once_and_in_order(wide: FlatModel) -> None:
    job = job_of(wide)
    updates = matrix(job)
    under_way, rows = job.begin_masked(OWNERS, BEACON), updates.parameters
    answers = under_way.gate_questions().products(rows)
    nothing = np.zeros(rows.shape[1], np.int64)
    with pytest.raises(PhaseError, match="gate comes first"):
        under_way.take_sum(nothing)
    with pytest.raises(PhaseError, match="gate comes first"):
        under_way.finish(None)
    with pytest.raises(UpdateRefused, match="must be 4 by 10"):
        under_way.take_gate(answers[:, :5])
    with pytest.raises(UpdateRefused, match="must be 4 by 10"):
        under_way.take_gate(answers[:2])
    under_way.take_gate(answers)
    with pytest.raises(PhaseError, match="decided already"):
        under_way.take_gate(answers)
    with pytest.raises(PhaseError, match="sum comes first"):
        under_way.value_questions()
    under_way.take_sum(nothing)
    with pytest.raises(PhaseError, match="no sum is to be opened"):
        under_way.take_sum(nothing)
    with pytest.raises(UpdateRefused, match="one product an update"):
        under_way.finish(None)
    with pytest.raises(UpdateRefused, match="one product an update"):
        under_way.finish(np.zeros((3, 1), np.int64))
    assert job.round_index == 0


def test_too_few_for_a_sum_leave_the_model_as_it_was(wide: FlatModel) -> None:
    job = job_of(wide)
    updates = matrix(job)
    under_way = job.begin_masked(OWNERS, BEACON)
    faults = np.array([OUT_OF_RANGE, BAD_SHARES, 0, 0], np.int8)
    under_way.take_gate(under_way.gate_questions().products(updates.parameters), faults)
    assert not under_way.is_summed
    with pytest.raises(PhaseError, match="no sum is to be opened"):
        under_way.take_sum(np.zeros(updates.parameters.shape[1], np.int64))
    before = job.model_digest()
    outcome = under_way.finish(None)
    assert outcome.model_digest == before
    statuses = [decision.status for decision in outcome.decisions]
    assert statuses == ["rejected", "rejected", "accepted", "accepted"]
    assert "outside the range" in outcome.decisions[0].reason
    assert "shares" in outcome.decisions[1].reason
    assert not outcome.values.any()


def test_twins_need_the_answers_of_every_round(wide: FlatModel) -> None:
    job = job_of(wide)
    outcome = opened(job, matrix(job))[1]
    assert outcome.sent is None
    questions = job.twin_questions(BEACON)
    assert questions.count == 9
    job.take_twins(0, OWNERS, questions.products(matrix(job).parameters))
    assert job.outcomes[0].sent is not None
    assert job.outcomes[0].sent.updates.shape == (4, 9)
    with pytest.raises(ValueError, match="not masked"):
        job_of(wide, masked_terms(privacy="sealed")).twin_questions(BEACON)


def test_a_question_about_one_coordinate_is_blunted() -> None:
    gentle = np.array([3.0, -3.0, 3.0])
    assert blunted(gentle) is gentle
    pointed = blunted(np.array([0.0, -100.0, 3.0, 4.0]))
    assert pointed.tolist() == [0.0, -4.5, 3.0, 4.0]
    assert not blunted(np.array([5.0])).any()
    assert blunted(np.zeros(0)).size == 0


def test_a_question_about_two_coordinates_is_blunted_in_both() -> None:
    assert not blunted(np.array([0.0, 7.0, 0.0, -7.0])).any()
    assert not blunted(np.array([7.0, -7.0])).any()
    found = blunted(np.array([50.0, 0.3, -60.0, -0.4]))
    assert found[[1, 3]].tolist() == [0.3, -0.4]
    assert found[0] == -found[2] == pytest.approx(0.9 * 0.5 / np.sqrt(1 - 0.81))


NUMBERS = st.floats(1e-30, 1e30) | st.floats(-1e30, -1e-30) | st.just(0.0)


@given(arrays(np.float64, st.integers(0, 12), elements=NUMBERS))
def test_no_blunted_question_is_pointed(vector: F64) -> None:
    found = blunted(vector)
    squares = np.square(found)
    for place, square in enumerate(squares):
        others = float(np.delete(squares, place).sum())
        assert square <= 0.81 * others * (1 + 1e-9)
    # Nothing grows or turns round, and what did not stick out stays.
    assert (np.abs(found) <= np.abs(vector)).all()
    assert (found * vector >= 0).all()
    if found.any():
        assert (found != vector).sum() <= 2


def test_a_sum_that_cannot_be_opened_ends_the_round_where_it_began(wide: FlatModel) -> None:
    job = job_of(wide)
    updates = matrix(job)
    under_way = job.begin_masked(OWNERS, BEACON)
    with pytest.raises(PhaseError, match="gate comes first"):
        under_way.drop_sum()
    under_way.take_gate(under_way.gate_questions().products(updates.parameters))
    before = job.model_digest()
    under_way.drop_sum()
    with pytest.raises(PhaseError, match="no sum is to be opened"):
        under_way.drop_sum()
    assert under_way.value_questions() is None
    outcome = under_way.finish(None)
    assert outcome.model_digest == before
    assert {(one.status, one.reason) for one in outcome.decisions} == {("rejected", NO_SUM)}
    assert job.round_index == 1
    # Nobody is charged for it.
    after = opened(job, matrix(job))[1]
    worth = sum(to_fixed([float(value) for value in after.values]))
    assert sum(total.value for total in score_table(job, OWNERS).totals) == worth


def test_buffers_are_refused(wide: FlatModel) -> None:
    torch.manual_seed(1)
    normed = build(nn.Sequential(nn.Linear(2, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 2)))
    with pytest.raises(JobRefused, match="federated buffers"):
        job_of(normed)


def test_defaults_follow_from_the_model_and_the_seats() -> None:
    assert default_projections(320) == 3
    assert default_projections(2114) == 15
    with pytest.raises(JobRefused, match="too small"):
        default_projections(319)
    assert masked_plan(MASKED, 2114) is MASKED
    assert masked_plan(msgspec.structs.replace(MASKED, projections=0), 2114).projections == 15
    with pytest.raises(JobRefused, match=r"plan\.minimum_owners: 1 given; allowed: at least 3"):
        masked_plan(PLAN, 2114)
    found = default_masking(masked_plan(MASKED, 2114), parameters=2114, seats=5)
    # A job too short to tell names apart asks for no twins.
    assert found == Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=0)
    long = msgspec.structs.replace(masked_plan(MASKED, 2114), rounds=10)
    assert default_masking(long, parameters=2114, seats=5).twin_projections == 16
    assert default_masking(MASKED, parameters=1282, seats=9).faulty == 2
    with pytest.raises(JobRefused, match="at least 3"):
        default_masking(MASKED, parameters=2114, seats=2)
    assert masking_plan(masked_terms(), 1282).members == 5
    with pytest.raises(ValueError, match="not masked"):
        masking_plan(masked_terms(privacy="sealed"), 1282)


@pytest.mark.parametrize(
    ("parameters", "rounds", "twins", "expected"),
    [
        # 640 / 64 - 2 = 8 numbers may be opened, fewer than the gate has a use for.
        (640, 10, None, 8),
        (1600, 10, None, 15),
        # 1856 / 64 - 2 = 27 are the gate's 15 and the 12 with which a search for twins begins.
        (1855, 10, None, 15),
        (1856, 10, None, 15),
        (1856, 4, None, 15),
        # What the requester names for the search is set aside.
        (1600, 10, 0, 15),
        (1600, 10, 12, 11),
        (640, 10, 4, 4),
    ],
)
def test_the_gate_has_what_it_needs_and_the_search_for_twins_the_rest(
    parameters: int, rounds: int, twins: int | None, expected: int
) -> None:
    assert default_projections(parameters, twins or 0) == expected
    plan = msgspec.structs.replace(MASKED, projections=0, rounds=rounds)
    how = None if twins is None else Masking(threshold=1, faulty=0, minimum_sum=3, twin_projections=twins)
    found = masked_plan(plan, parameters, how)
    assert found.projections == expected
    if how is None:
        asked = default_masking(found, parameters=parameters, seats=3).twin_projections
        assert 2 + expected + asked <= parameters // 64
        assert asked == (12 if (parameters, rounds) == (1856, 10) else 0)


@pytest.mark.parametrize("rounds", [4, 5, 10])
def test_a_larger_model_never_has_fewer_projections(rounds: int) -> None:
    plan = msgspec.structs.replace(MASKED, projections=0, rounds=rounds)
    before = (0, 0)
    for parameters in range(320, 10_000, 64):
        gate = masked_plan(plan, parameters)
        twins = default_masking(gate, parameters=parameters, seats=3).twin_projections
        assert gate.projections >= before[0]
        assert twins >= before[1]
        assert 2 + gate.projections + twins <= allowed_scalars(parameters)
        before = gate.projections, twins
    assert before == (15, {4: 0, 5: 32, 10: 16}[rounds])


def test_few_projections_are_told_with_what_would_do() -> None:
    def told(projections: int, parameters: int, privacy: str = "masked") -> str | None:
        plan = msgspec.structs.replace(MASKED, projections=projections)
        none = Masking(threshold=2, faulty=1, minimum_sum=3, twin_projections=0)
        return few_projections(masked_terms(plan, none, privacy=privacy), parameters)

    said = told(3, 320)
    # sqrt(1 / 6) = 0.41; (2 + 15) * 64 = 1,088.
    assert said is not None
    assert all(part in said for part in ("3 projections", "320 parameters", "within 41%", "1,088", "sealed"))
    assert default_projections(1087) == 14
    assert default_projections(1088) == 15
    assert told(15, 1088) is None
    assert told(3, 320, "sealed") is None
    searched = few_projections(masked_terms(msgspec.structs.replace(MASKED, projections=11)), 1600)
    assert searched is not None
    # 64 * (2 + 15 + 9) of which 9 are those that these terms name for twins.
    assert "1,664" in searched
    # A model that is large enough was given few by its requester.
    named = told(3, 12_000)
    assert named is not None
    assert "Leave plan.projections out, which gives 15" in named


@pytest.mark.parametrize(
    ("plan", "masking", "message"),
    [
        ({"gate": False}, {}, "plan.gate"),
        ({"projections": 0}, {}, "plan.projections"),
        ({"minimum_owners": 2}, {}, "plan.minimum_owners"),
        ({}, {"threshold": 0}, "masking.threshold"),
        ({}, {"threshold": 5}, "masking.threshold"),
        ({}, {"faulty": 2}, "masking.threshold"),
        ({}, {"minimum_sum": 1}, "masking.minimum_sum"),
    ],
)
def test_terms_that_do_not_fit_together_are_refused(
    plan: dict[str, int], masking: dict[str, int], message: str
) -> None:
    given = {"threshold": 2, "faulty": 1, "minimum_sum": 3} | masking
    with pytest.raises(JobRefused, match=message):
        masked_terms(msgspec.structs.replace(MASKED, **plan), Masking(**given))


def test_masking_goes_with_masked_mode_only() -> None:
    terms = masked_terms()
    with pytest.raises(JobRefused, match="masking"):
        msgspec.structs.replace(terms, privacy="sealed")
    with pytest.raises(JobRefused, match="masking"):
        msgspec.structs.replace(terms, masking=None)


def test_no_weight_stands_alone_in_a_sum() -> None:
    weights, reasons = carried(np.array([15, 15, 15, 2, 0]), np.array([0, 0, 0, 0, 3]), 3)
    assert weights.tolist() == [15, 15, 15, 0, 0]
    assert reasons.tolist() == [0, 0, 0, STANDS_ALONE, 3]
    weights, reasons = carried(np.array([15, 7, 0]), np.array([0, 0, 3]), 3)
    assert (weights.tolist(), reasons.tolist()) == ([15, 7, 0], [0, 0, 3])


def test_both_modes_share_weights_alike(wide: FlatModel) -> None:
    masked, sealed = job_of(wide), job_of(wide, masked_terms(privacy="sealed"))
    updates = matrix(masked)
    rows = updates.parameters.copy()
    rows[1] //= 2
    rows[2] *= 2
    changed = UpdateMatrix(OWNERS, rows, updates.buffers, updates.bits)
    for job in (masked, sealed):
        found = job.advance_updates(changed, beacon=BEACON)
        check_carried(found.weights, 3)
        assert [decision.reason for decision in found.decisions if decision.weight == 0] == [
            outcomes.STANDS_ALONE
        ] * int((found.weights == 0).sum())


def test_one_good_round_after_bad_ones_is_not_enough(wide: FlatModel) -> None:
    """Opened, answered in the clear and sealed alike; a plan without standing judges each round alone."""
    plan = msgspec.structs.replace(MASKED, rounds=FEWEST_ROUNDS)
    masked, clear = job_of(wide, masked_terms(plan)), job_of(wide, masked_terms(plan))
    sealed = job_of(wide, masked_terms(plan, privacy="sealed"))
    alone = job_of(wide, masked_terms(msgspec.structs.replace(plan, standing=False)))
    for index in range(FEWEST_ROUNDS):
        is_last = index == FEWEST_ROUNDS - 1
        updates = along(masked, 0.9 if is_last else -0.9)
        _, one = opened(masked, updates)
        others = [job.advance_updates(updates, beacon=BEACON) for job in (clear, sealed, alone)]
        for outcome in (one, *others[:2]):
            assert outcome.weights.tolist() == one.weights.tolist()
            assert outcome.reasons[OWNERS[0]] == (STANDS_BADLY if is_last else AGAINST_REFERENCE)
            assert not any(outcome.reasons.get(who) == STANDS_BADLY for who in OWNERS[1:])
        assert others[2].reasons.get(OWNERS[0]) != STANDS_BADLY


def along(job: JobComputation, first: float) -> UpdateMatrix:
    """Updates as long as the hidden-set step, with a cosine of 0.9 to it; of the first with another."""
    step = job.hidden_step()[0].astype(np.float64)
    rng = np.random.default_rng(job.round_index)
    rows = np.empty((len(OWNERS), step.size), np.int16)
    for place in range(len(OWNERS)):
        aside = rng.standard_normal(step.size)
        aside -= aside @ step / (step @ step) * step
        aside *= np.sqrt(step @ step / (aside @ aside))
        cosine = 0.9 if place else first
        rows[place] = np.clip(np.rint(cosine * step + np.sqrt(1 - cosine**2) * aside), -32767, 32767)
    return UpdateMatrix(OWNERS, rows, np.zeros((len(rows), 0), np.int32), job.terms.plan.bits)
