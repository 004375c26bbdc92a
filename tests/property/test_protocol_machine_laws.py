"""Laws of the state machine: money is conserved, phases follow the table, time alone ends every job."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from galaxylearning.errors import PhaseError
from galaxylearning.messages import terms as t
from galaxylearning.messages.plan import Plan
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.events import JobEvent, Phase
from galaxylearning.protocol.machine import TABLE, due, step
from galaxylearning.protocol.state import JobState, posted
from galaxylearning.units import ZERO_DIGEST, Address, Digest

A = [Address(f"0x{n:040d}") for n in range(1, 10)]
SEATS = A[:3]
HEX = "ab" * 32
ONE = Digest(b"\1" * 32)

TERMS = t.Terms(
    title="t",
    description="",
    requester=A[8],
    requester_key=HEX,
    evaluators=tuple(t.EvaluatorSeat(seat, HEX, HEX) for seat in SEATS),
    schema=t.Schema((t.Column("x", "number"),), t.Column("y", "number")),
    plan=Plan(rounds=2, epochs=1, minimum_owners=1, maximum_owners=4),
    price=t.Price(A[7], "100", "10", 0.5, bond="7"),
    admission=t.Admission(),
    windows=t.Windows(enrol_s=10, round_s=10, anchor_s=5, commit_s=10, reveal_s=10, settle_s=5, claim_s=50),
    graph=HEX,
    loss="mse",
    model=HEX,
    model_digest=HEX,
    test_set=HEX,
    test_set_digest=HEX,
    test_rows=100,
    seed=1,
)
START = posted(ev.JobPosted(1, 0, A[8], TERMS.digest, 100, 30), TERMS)

phases = st.sampled_from(list(Phase))
seats = st.sampled_from(A[:4])
small = st.integers(0, 4)
amounts = st.integers(0, 140)
heads = st.just(ZERO_DIGEST)
zero, one = st.just(1), st.just(5)

event_strategy: st.SearchStrategy[JobEvent] = st.one_of(
    st.builds(ev.SeatTaken, zero, one, seats),
    st.builds(ev.BondDeposited, zero, one, seats),
    st.builds(ev.BondReturned, zero, one, seats),
    st.builds(ev.BondForfeited, zero, one, seats, small),
    st.builds(ev.CohortAnchored, zero, one, heads, small, heads),
    st.builds(ev.RoundAnchored, zero, one, small, heads, small, heads, heads, heads),
    st.builds(ev.PhaseChanged, zero, one, phases, phases),
    st.builds(ev.StoodBy, zero, one, seats),
    st.builds(ev.ScoresCommitted, zero, one, seats, heads),
    st.builds(ev.ScoresRevealed, zero, one, seats, heads),
    st.builds(ev.JobSettled, zero, one, heads, amounts, small, heads, small),
    st.builds(ev.Paid, zero, one, small, seats, amounts),
    st.builds(ev.FeePaid, zero, one, small, seats, st.just(10)),
    st.builds(ev.Refunded, zero, one, amounts),
    st.builds(ev.ClaimsExpired, zero, one, amounts),
    st.builds(ev.JobAborted, zero, one, phases),
)


def advanced(state: JobState, phase: Phase) -> JobState:
    """A state of the wanted phase, reached by events only."""
    path: dict[Phase, list[JobEvent]] = {
        Phase.TRAINING: [
            *(ev.SeatTaken(1, 1, seat) for seat in SEATS),
            ev.CohortAnchored(1, 2, ONE, 3, ZERO_DIGEST),
        ],
        Phase.COMMITTING: [
            ev.RoundAnchored(1, 3, 0, ONE, 3, ZERO_DIGEST, ONE, ONE),
            ev.PhaseChanged(1, 4, Phase.TRAINING, Phase.COMMITTING),
        ],
        Phase.REVEALING: [
            *(ev.ScoresCommitted(1, 5, seat, ONE) for seat in SEATS),
            ev.PhaseChanged(1, 6, Phase.COMMITTING, Phase.REVEALING),
        ],
        Phase.SETTLED: [
            *(ev.ScoresRevealed(1, 7, seat, ONE) for seat in SEATS),
            ev.JobSettled(1, 8, ONE, 90, 3, ONE, 0b1),
        ],
    }
    for reached, events in path.items():
        if reached <= phase:
            for event in events:
                state = step(state, event)
    return state


starts = st.sampled_from([advanced(START, phase) for phase in list(Phase)[1:6]])


@settings(max_examples=300)
@given(starts, st.lists(event_strategy, max_size=25))
def test_money_is_conserved_and_phases_move_along_the_table(state: JobState, events: list[JobEvent]) -> None:
    for event in events:
        try:
            after = step(state, event)
        except PhaseError:
            continue
        assert after.phase in TABLE[state.phase, type(event)].targets
        assert after.round_index <= after.rounds
        assert after.paid <= after.total <= after.bounty
        assert not after.bonds & after.forfeited
        assert state.forfeited <= after.forfeited
        state = after
        outgoing = state.paid + state.fees_paid + state.refunded
        if state.phase in (Phase.SETTLED, Phase.ABORTED):
            assert state.refundable >= 0
        bonds = 7 * len(state.bonds)
        if state.phase is Phase.SETTLED and state.claims_expired_amount is None:
            assert outgoing + state.unclaimed - bonds + state.refundable == state.escrow
        elif state.phase is Phase.SETTLED:
            assert outgoing + state.refundable >= state.escrow
        elif state.phase is Phase.ABORTED:
            assert outgoing + state.refundable == state.escrow
        else:
            assert outgoing == 0


def expire(state: JobState, at: int) -> JobState:
    """What the contract's ``expire`` logs, by its deadline table."""
    moves_on = {
        Phase.TRAINING: (state.round_index > 0, Phase.COMMITTING),
        Phase.COMMITTING: (len(state.committed) >= state.quorum, Phase.REVEALING),
    }
    if state.phase is Phase.SETTLED:
        return step(state, ev.ClaimsExpired(1, at, state.unclaimed))
    may, target = moves_on.get(state.phase, (False, Phase.ABORTED))
    if may:
        return step(state, ev.PhaseChanged(1, at, state.phase, target))
    return step(state, ev.JobAborted(1, at, state.phase))


@given(starts, st.lists(event_strategy.filter(lambda e: not isinstance(e, ev.ClaimsExpired)), max_size=25))
def test_time_alone_gives_all_money_a_place(state: JobState, events: list[JobEvent]) -> None:
    for event in events:
        try:
            state = step(state, event)
        except PhaseError:
            continue
    now, steps, expired_bonds = 10, 0, 0
    while state.expires_at is not None:
        now = max(now, state.expires_at)
        assert "expire" in [command.function for command in due(state, now)]
        if state.phase is Phase.SETTLED:
            expired_bonds = 7 * len(state.bonds)
        state = expire(state, now)
        steps += 1
        assert steps <= 4
    if state.refundable:
        state = step(state, ev.Refunded(1, now, state.refundable))
    assert state.paid + state.fees_paid + state.refunded == state.escrow + expired_bonds
    assert [c.function for c in due(state, now) if c.function != "returnBond"] == []
