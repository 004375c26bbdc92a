"""The job's state machine: a whole life, every refusal, and what is due when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from galaxylearning.errors import PhaseError
from galaxylearning.messages import terms as t
from galaxylearning.messages import typed
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.events import JobEvent, Phase
from galaxylearning.protocol.machine import TABLE, due, step, table_markdown
from galaxylearning.protocol.state import JobState, posted
from galaxylearning.units import ZERO_DIGEST, Address, Digest

A = [Address(f"0x{n:040d}") for n in range(1, 10)]
SEATS = A[:3]
HEX = "ab" * 32
JOB = 7
START = 1_000_000


def d(byte: int) -> Digest:
    return Digest(bytes([byte]) * 32)


TERMS = t.Terms(
    title="t",
    description="",
    requester=A[8],
    evaluators=tuple(t.EvaluatorSeat(seat, HEX, HEX) for seat in SEATS),
    schema=t.Schema((t.Column("x", "number"),), t.Column("y", "number")),
    plan=Plan(rounds=2, epochs=1, minimum_owners=2, maximum_owners=4),
    price=t.Price(A[7], "1000", "10", 0.5),
    admission=t.Admission(),
    windows=t.Windows(
        enrol_s=100, round_s=50, anchor_s=20, commit_s=30, reveal_s=40, settle_s=25, claim_s=500
    ),
    graph=HEX,
    loss="mse",
    model=HEX,
    model_digest=HEX,
    test_set=HEX,
    test_set_digest=HEX,
    requester_key=HEX,
    test_rows=100,
    seed=1,
)
POSTED = ev.JobPosted(JOB, START, A[8], TERMS.digest, 1000, 30)
UPDATE = typed.Update(JOB, 0, TERMS.digest, A[3], d(1), d(2))
ENROLMENT = typed.Enrolment(JOB, TERMS.digest, A[3], d(1), d(2), ZERO_DIGEST)


def run(state: JobState, *events: JobEvent) -> JobState:
    for event in events:
        state = step(state, event)
    return state


def seats(*indices: int) -> list[JobEvent]:
    return [ev.SeatTaken(JOB, START + 1, SEATS[i]) for i in indices]


def anchored(index: int, at: int) -> ev.RoundAnchored:
    return ev.RoundAnchored(JOB, at, index, d(5), 3, ZERO_DIGEST, d(6 + index), d(9))


COHORT = ev.CohortAnchored(JOB, START + 100, d(4), 3, ZERO_DIGEST)
TO_COMMITTING = ev.PhaseChanged(JOB, START + 200, Phase.TRAINING, Phase.COMMITTING)
TO_REVEALING = ev.PhaseChanged(JOB, START + 210, Phase.COMMITTING, Phase.REVEALING)
SETTLED = ev.JobSettled(JOB, START + 220, d(11), 900, 2, d(7), 0b100)

ENROLLING = posted(POSTED, TERMS)
TRAINING = run(ENROLLING, *seats(0, 1, 2), COHORT)
COMMITTING = run(TRAINING, anchored(0, START + 150), anchored(1, START + 200), TO_COMMITTING)
REVEALING = run(
    COMMITTING, *(ev.ScoresCommitted(JOB, START + 210, seat, d(1)) for seat in SEATS), TO_REVEALING
)
DONE = run(REVEALING, *(ev.ScoresRevealed(JOB, START + 215, seat, d(2)) for seat in SEATS), SETTLED)


def functions(state: JobState, now: int, candidates: int = 0) -> list[str]:
    return [command.function for command in due(state, now, candidates=candidates)]


def test_the_phases_have_the_contracts_numbers() -> None:
    names = ["NONE", "ENROLLING", "TRAINING", "COMMITTING", "REVEALING", "SETTLED", "ABORTED"]
    assert [phase.name for phase in Phase] == names
    assert [int(phase) for phase in Phase] == list(range(7))


def test_a_posted_job_is_that_of_its_terms() -> None:
    assert (ENROLLING.phase, ENROLLING.escrow, ENROLLING.quorum) == (Phase.ENROLLING, 1030, 2)
    changes: list[dict[str, Any]] = [
        {"terms_digest": d(1)},
        {"requester": A[0]},
        {"bounty": 999},
        {"fees": 31},
    ]
    for change in changes:
        with pytest.raises(PhaseError, match="not that of the terms"):
            posted(replace(POSTED, **change), TERMS)


def test_a_whole_life_ends_with_every_unit_in_its_place() -> None:
    assert (TRAINING.phase, TRAINING.round_index, TRAINING.cohort_size) == (Phase.TRAINING, 0, 3)
    assert (COMMITTING.phase, COMMITTING.round_index) == (Phase.COMMITTING, 2)
    assert COMMITTING.model_digest == d(7)
    assert (DONE.phase, DONE.fee_seats, DONE.fees_owed) == (Phase.SETTLED, 0b011, 20)
    assert DONE.refundable == 1030 - 900 - 20
    end = run(
        DONE,
        ev.Paid(JOB, START + 230, 1, A[3], 500),
        ev.Paid(JOB, START + 231, 0, A[4], 400),
        ev.FeePaid(JOB, START + 232, 0, SEATS[0], 10),
        ev.FeePaid(JOB, START + 232, 1, SEATS[1], 10),
        ev.Refunded(JOB, START + 233, 110),
    )
    assert end.paid + end.fees_paid + end.refunded == end.escrow
    assert (end.refundable, functions(end, START + 240)) == (0, [])


def test_what_nobody_claims_goes_back() -> None:
    state = run(DONE, ev.Paid(JOB, START + 230, 1, A[3], 500), ev.ClaimsExpired(JOB, START + 800, 420))
    assert state.refundable == 110 + 420
    assert state.deadline is None
    assert functions(state, START + 801) == ["refund"]
    late: list[JobEvent] = [
        ev.Paid(JOB, START + 801, 0, A[4], 400),
        ev.FeePaid(JOB, START + 801, 0, SEATS[0], 10),
        ev.ClaimsExpired(JOB, START + 802, 0),
    ]
    for event in late:
        with pytest.raises(PhaseError, match="claims"):
            step(state, event)
    end = step(state, ev.Refunded(JOB, START + 803, 530))
    assert end.paid + end.fees_paid + end.refunded == end.escrow


@pytest.mark.parametrize("state", [ENROLLING, TRAINING, COMMITTING, REVEALING], ids=lambda s: s.phase.name)
def test_an_aborted_job_owes_everything_back(state: JobState) -> None:
    aborted = step(state, ev.JobAborted(JOB, START + 900, state.phase))
    assert (aborted.phase, aborted.refundable, aborted.deadline) == (Phase.ABORTED, 1030, None)
    assert functions(aborted, START + 10**9) == ["refund"]
    assert step(aborted, ev.Refunded(JOB, START + 901, 1030)).refundable == 0
    with pytest.raises(PhaseError):
        step(aborted, ev.Refunded(JOB, START + 901, 1029))


def test_every_pair_outside_the_table_is_refused_and_moves_nothing() -> None:
    examples: list[JobEvent] = [
        POSTED,
        *seats(0),
        ev.BondDeposited(JOB, START, A[3]),
        ev.BondReturned(JOB, START, A[3]),
        ev.BondForfeited(JOB, START, A[3], 0),
        ev.EnrolledDirectly(JOB, START, ENROLMENT, b"", d(3)),
        COHORT,
        ev.UpdateSubmittedDirectly(JOB, START, UPDATE, b"", d(3)),
        anchored(0, START),
        ev.StoodBy(JOB, START, SEATS[0]),
        ev.ScoresCommitted(JOB, START, SEATS[0], d(1)),
        ev.ScoresRevealed(JOB, START, SEATS[0], d(2)),
        SETTLED,
        ev.Paid(JOB, START, 0, A[3], 1),
        ev.FeePaid(JOB, START, 0, SEATS[0], 10),
        ev.Refunded(JOB, START, 1030),
        ev.ClaimsExpired(JOB, START, 0),
        TO_COMMITTING,
        ev.JobAborted(JOB, START, Phase.ENROLLING),
    ]
    aborted = step(ENROLLING, ev.JobAborted(JOB, START, Phase.ENROLLING))
    pairs = 0
    for state in (ENROLLING, TRAINING, COMMITTING, REVEALING, DONE, aborted):
        for event in examples:
            if (state.phase, type(event)) in TABLE:
                continue
            before = replace(state)
            with pytest.raises(PhaseError, match=f"{type(event).__name__} is not possible"):
                step(state, event)
            assert state == before
            pairs += 1
    assert pairs == 6 * len(examples) - len(TABLE)


IMPOSSIBLE: list[tuple[JobState, JobEvent]] = [
    (ENROLLING, ev.SeatTaken(8, START, SEATS[0])),
    (ENROLLING, ev.SeatTaken(JOB, START, A[5])),
    (run(ENROLLING, *seats(0)), ev.SeatTaken(JOB, START, SEATS[0])),
    (run(ENROLLING, *seats(0)), COHORT),
    (run(ENROLLING, *seats(0, 1)), replace(COHORT, size=1)),
    (run(ENROLLING, *seats(0, 1)), replace(COHORT, size=5)),
    (run(ENROLLING, *seats(0, 1)), replace(COHORT, direct_head=d(1))),
    (run(ENROLLING, *seats(0, 1), ev.EnrolledDirectly(JOB, START, ENROLMENT, b"", d(3))), COHORT),
    (run(ENROLLING, ev.BondDeposited(JOB, START, A[3])), ev.BondDeposited(JOB, START, A[3])),
    (ENROLLING, ev.JobAborted(JOB, START, Phase.TRAINING)),
    (TRAINING, anchored(1, START + 150)),
    (TRAINING, replace(anchored(0, START + 150), count=1)),
    (TRAINING, replace(anchored(0, START + 150), count=4)),
    (TRAINING, replace(anchored(0, START + 150), direct_head=d(3))),
    (step(TRAINING, ev.UpdateSubmittedDirectly(JOB, START, UPDATE, b"", d(3))), anchored(0, START + 150)),
    (TRAINING, ev.UpdateSubmittedDirectly(JOB, START, replace(UPDATE, round_index=1), b"", d(3))),
    (TRAINING, TO_COMMITTING),
    (run(TRAINING, anchored(0, START + 150)), replace(TO_COMMITTING, to_phase=Phase.REVEALING)),
    (run(TRAINING, anchored(0, START + 150)), replace(TO_COMMITTING, from_phase=Phase.COMMITTING)),
    (run(TRAINING, anchored(0, START + 150), anchored(1, START + 151)), anchored(2, START + 152)),
    (COMMITTING, TO_REVEALING),
    (COMMITTING, ev.StoodBy(JOB, START, A[5])),
    (step(COMMITTING, ev.StoodBy(JOB, START, SEATS[0])), ev.StoodBy(JOB, START, SEATS[0])),
    (
        step(COMMITTING, ev.ScoresCommitted(JOB, START, SEATS[0], d(1))),
        ev.StoodBy(JOB, START, SEATS[0]),
    ),
    (COMMITTING, ev.ScoresCommitted(JOB, START, A[5], d(1))),
    (
        step(COMMITTING, ev.ScoresCommitted(JOB, START, SEATS[0], d(1))),
        ev.ScoresCommitted(JOB, START, SEATS[0], d(1)),
    ),
    (REVEALING, ev.ScoresRevealed(JOB, START, A[5], d(2))),
    (
        step(REVEALING, ev.ScoresRevealed(JOB, START, SEATS[0], d(2))),
        ev.ScoresRevealed(JOB, START, SEATS[0], d(2)),
    ),
    (step(REVEALING, ev.ScoresRevealed(JOB, START, SEATS[0], d(2))), SETTLED),
    (replace(DONE, phase=Phase.REVEALING), replace(SETTLED, total=1001)),
    (replace(DONE, phase=Phase.REVEALING), replace(SETTLED, payees=4)),
    (replace(DONE, phase=Phase.REVEALING), replace(SETTLED, faulty_seats=0b1000)),
    (DONE, ev.Paid(JOB, START, 2, A[3], 1)),
    (DONE, ev.Paid(JOB, START, 0, A[3], 901)),
    (step(DONE, ev.Paid(JOB, START, 0, A[3], 1)), ev.Paid(JOB, START, 0, A[3], 1)),
    (DONE, ev.FeePaid(JOB, START, 2, SEATS[2], 10)),
    (DONE, ev.FeePaid(JOB, START, 3, A[5], 10)),
    (DONE, ev.FeePaid(JOB, START, 0, SEATS[0], 11)),
    (step(DONE, ev.FeePaid(JOB, START, 0, SEATS[0], 10)), ev.FeePaid(JOB, START, 0, SEATS[0], 10)),
    (DONE, ev.Refunded(JOB, START, 111)),
    (DONE, ev.BondReturned(JOB, START, A[3])),
    (DONE, ev.BondForfeited(JOB, START, A[3], 0)),
    (DONE, ev.ClaimsExpired(JOB, START, 919)),
    (DONE, ev.ClaimsExpired(JOB, START, 921)),
]


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE, ids=[str(n) for n in range(len(IMPOSSIBLE))])
def test_what_the_contract_could_not_have_logged_is_refused(state: JobState, event: JobEvent) -> None:
    before = replace(state)
    with pytest.raises(PhaseError, match="job 7"):
        step(state, event)
    assert state == before


def test_direct_entries_are_covered_by_the_next_anchor() -> None:
    state = run(ENROLLING, *seats(0, 1), ev.EnrolledDirectly(JOB, START, ENROLMENT, b"", d(3)))
    assert state.direct_head == d(3)
    training = step(state, replace(COHORT, direct_head=d(3)))
    assert training.direct_head == ZERO_DIGEST
    submitted = step(training, ev.UpdateSubmittedDirectly(JOB, START, UPDATE, b"", d(8)))
    after = step(submitted, replace(anchored(0, START + 150), direct_head=d(8)))
    assert (after.direct_head, after.round_index) == (ZERO_DIGEST, 1)


def test_bonds_are_returned_once_the_job_is_over() -> None:
    bonded = step(ENROLLING, ev.BondDeposited(JOB, START, A[3]))
    aborted = step(bonded, ev.JobAborted(JOB, START, Phase.ENROLLING))
    assert functions(aborted, START) == ["refund", "returnBond"]
    assert functions(step(aborted, ev.BondReturned(JOB, START, A[3])), START) == ["refund"]


def test_a_bond_is_burned_once_and_is_then_neither_returned_nor_anybodys() -> None:
    bonded = replace(TRAINING, bond_per_identity=7, bonds=frozenset(A[3:5]))
    burned = step(bonded, ev.BondForfeited(JOB, START + 110, A[3], 0))
    assert (burned.bonds, burned.forfeited) == (frozenset({A[4]}), frozenset({A[3]}))
    assert (burned.phase, burned.escrow, burned.unclaimed) == (Phase.TRAINING, 1030, 7)
    aborted = step(burned, ev.JobAborted(JOB, START + 900, Phase.TRAINING))
    for again in (ev.BondForfeited(JOB, START + 901, A[3], 0), ev.BondReturned(JOB, START + 901, A[3])):
        with pytest.raises(PhaseError, match="no bond"):
            step(aborted, again)
    back = step(aborted, ev.BondReturned(JOB, START + 902, A[4]))
    with pytest.raises(PhaseError, match="no bond"):
        step(back, ev.BondForfeited(JOB, START + 903, A[4], 1))
    with pytest.raises(PhaseError, match="not possible"):
        step(replace(ENROLLING, bonds=frozenset(A[3:4])), ev.BondForfeited(JOB, START, A[3], 0))


def test_bonds_that_nobody_fetches_expire_with_the_claims() -> None:
    state = replace(DONE, bond_per_identity=7, bonds=frozenset(A[3:5]))
    expired = step(state, ev.ClaimsExpired(JOB, START + 720, 900 + 20 + 14))
    assert (expired.bonds, expired.refundable, expired.unclaimed) == (frozenset(), 1030 + 14, 0)
    with pytest.raises(PhaseError):
        step(expired, ev.BondReturned(JOB, START + 721, A[3]))


def test_what_is_due_while_enrolling() -> None:
    some = run(ENROLLING, *seats(0, 1))
    assert functions(ENROLLING, START) == ["takeSeat"]
    assert due(some, START)[0].actors == (SEATS[2],)
    assert functions(some, START + 99, candidates=3) == ["takeSeat"]
    assert functions(some, START + 100, candidates=3) == ["takeSeat", "anchorCohort"]
    assert functions(some, START + 5, candidates=4) == ["takeSeat", "anchorCohort"]
    assert functions(some, START + 100, candidates=1) == ["takeSeat"]
    assert functions(run(ENROLLING, *seats(0)), START + 100, candidates=3) == ["takeSeat"]
    assert functions(run(some, *seats(2)), START + 119) == []
    assert functions(run(some, *seats(2)), START + 120) == ["expire"]


def test_what_is_due_in_training() -> None:
    assert functions(TRAINING, START + 149, candidates=2) == []
    assert functions(TRAINING, START + 149, candidates=3) == ["anchorRound"]
    assert functions(TRAINING, START + 150, candidates=2) == ["anchorRound"]
    assert due(TRAINING, START + 150, candidates=2)[0].round_index == 0
    assert functions(TRAINING, START + 150, candidates=1) == []
    assert functions(TRAINING, START + 170, candidates=2) == ["anchorRound", "expire"]


def test_what_is_due_while_committing_and_revealing() -> None:
    assert functions(COMMITTING, START + 229) == ["commitScores"]
    assert functions(COMMITTING, START + 230) == ["expire"]
    one = step(COMMITTING, ev.ScoresCommitted(JOB, START, SEATS[0], d(1)))
    assert due(one, START + 201)[0].actors == (SEATS[1], SEATS[2])
    two = run(REVEALING, *(ev.ScoresRevealed(JOB, START, seat, d(2)) for seat in SEATS[:2]))
    assert functions(two, START + 249) == ["revealScores"]
    assert functions(two, START + 250) == ["settle"]
    assert functions(two, START + 275) == ["settle", "expire"]
    three = step(two, ev.ScoresRevealed(JOB, START, SEATS[2], d(2)))
    assert functions(three, START + 211) == ["settle"]
    assert functions(REVEALING, START + 250) == []


def test_what_is_due_once_settled() -> None:
    assert functions(DONE, START + 221) == ["pay", "payFees", "refund"]
    assert functions(DONE, START + 720) == ["pay", "payFees", "refund", "expire"]


def test_every_row_of_the_table_is_rendered() -> None:
    lines = table_markdown().splitlines()
    assert len(lines) == 2 + len(TABLE)
    assert all(line.count("|") == 6 for line in lines)
