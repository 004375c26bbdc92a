"""The state machine of a job, as a table that mirrors GalaxyJobs.

``step`` moves a state by what the contract logged; ``due`` says what somebody may do now. A pair of phase and
event that is not in ``TABLE`` raises and leaves the state as it was. Deadlines are chain time, Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from galaxylearning.errors import PhaseError
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.events import JobEvent, Phase
from galaxylearning.protocol.state import JobState, posted
from galaxylearning.units import ZERO_DIGEST, Address, round_name

__all__ = ["TABLE", "Command", "JobState", "Phase", "Transition", "due", "posted", "step", "table_markdown"]


def step(state: JobState, event: JobEvent) -> JobState:
    """The state after ``event``.

    Raises:
        PhaseError: another job's event, a pair of phase and event that is not in ``TABLE``, or an event that
            the contract could not have logged in this state.
    """
    if event.job_id != state.job_id:
        raise PhaseError(f"an event of job {event.job_id}", where=f"job {state.job_id}")
    transition = TABLE.get((state.phase, type(event)))
    if transition is None:
        raise PhaseError(
            f"{type(event).__name__} is not possible while {state.phase.name.lower()}",
            where=f"job {state.job_id}",
        )
    return transition.apply(state, event)


def _require(condition: bool, state: JobState, what: str) -> None:
    if not condition:
        raise PhaseError(what, where=f"job {state.job_id}")


def _seat_taken(state: JobState, event: ev.SeatTaken) -> JobState:
    _require(event.evaluator in state.evaluators, state, f"{event.evaluator} is not a named evaluator")
    _require(event.evaluator not in state.seats, state, f"{event.evaluator} already took its seat")
    return replace(state, seats=state.seats | {event.evaluator})


def _bond_deposited(state: JobState, event: ev.BondDeposited) -> JobState:
    _require(event.data_owner not in state.bonds, state, f"the bond of {event.data_owner} was already posted")
    return replace(state, bonds=state.bonds | {event.data_owner})


def _bond_returned(state: JobState, event: ev.BondReturned | ev.BondForfeited) -> JobState:
    _require(event.data_owner in state.bonds, state, f"no bond of {event.data_owner} is held")
    _require(state.claims_expired_amount is None, state, "claims are over")
    return replace(state, bonds=state.bonds - {event.data_owner})


def _bond_forfeited(state: JobState, event: ev.BondForfeited) -> JobState:
    bonds = _bond_returned(state, event).bonds
    return replace(state, bonds=bonds, forfeited=state.forfeited | {event.data_owner})


def _enrolled_directly(state: JobState, event: ev.EnrolledDirectly) -> JobState:
    return replace(state, direct_head=event.direct_head)


def _cohort_anchored(state: JobState, event: ev.CohortAnchored) -> JobState:
    _require(len(state.seats) >= state.quorum, state, "fewer seats are taken than a quorum")
    is_size_allowed = state.minimum_owners <= event.size <= state.maximum_owners
    _require(is_size_allowed, state, f"a cohort of {event.size}")
    _require(event.direct_head == state.direct_head, state, "direct enrolments are missing")
    return replace(
        state,
        phase=Phase.TRAINING,
        phase_start=event.at,
        cohort_root=event.root,
        cohort_size=event.size,
        direct_head=ZERO_DIGEST,
    )


def _update_submitted_directly(state: JobState, event: ev.UpdateSubmittedDirectly) -> JobState:
    _require(
        event.update.round_index == state.round_index,
        state,
        f"an update of {round_name(event.update.round_index)}",
    )
    return replace(state, direct_head=event.direct_head)


def _round_anchored(state: JobState, event: ev.RoundAnchored) -> JobState:
    _require(
        event.round_index == state.round_index < state.rounds,
        state,
        f"an anchor of {round_name(event.round_index)}",
    )
    _require(
        state.minimum_owners <= event.count <= state.cohort_size, state, f"a round of {event.count} updates"
    )
    _require(event.direct_head == state.direct_head, state, "direct updates are missing")
    return replace(
        state,
        phase_start=event.at,
        round_index=event.round_index + 1,
        direct_head=ZERO_DIGEST,
        history=event.history,
        model_digest=event.model_digest,
    )


def _phase_changed(state: JobState, event: ev.PhaseChanged) -> JobState:
    follows = {Phase.TRAINING: Phase.COMMITTING, Phase.COMMITTING: Phase.REVEALING}
    is_next = event.from_phase is state.phase and follows[state.phase] is event.to_phase
    _require(is_next, state, f"no way from {event.from_phase.name.lower()} to {event.to_phase.name.lower()}")
    if state.phase is Phase.TRAINING:
        _require(state.round_index > 0, state, "no round was anchored")
    else:
        _require(len(state.committed) >= state.quorum, state, "fewer seats have committed than a quorum")
    return replace(state, phase=event.to_phase, phase_start=event.at, direct_head=ZERO_DIGEST)


def _stood_by(state: JobState, event: ev.StoodBy) -> JobState:
    _require(event.evaluator in state.seats, state, f"{event.evaluator} took no seat")
    _require(event.evaluator not in state.committed, state, f"{event.evaluator} has already committed")
    _require(event.evaluator not in state.standing_by, state, f"{event.evaluator} already stands by")
    return replace(state, standing_by=state.standing_by | {event.evaluator})


def _scores_committed(state: JobState, event: ev.ScoresCommitted) -> JobState:
    _require(event.evaluator in state.seats, state, f"{event.evaluator} took no seat")
    _require(event.evaluator not in state.committed, state, f"{event.evaluator} has already committed")
    return replace(state, committed=state.committed | {event.evaluator})


def _scores_revealed(state: JobState, event: ev.ScoresRevealed) -> JobState:
    _require(event.evaluator in state.committed, state, f"{event.evaluator} has not committed")
    already = {evaluator for evaluator, _ in state.revealed}
    _require(event.evaluator not in already, state, f"{event.evaluator} has already revealed")
    return replace(state, revealed=(*state.revealed, (event.evaluator, event.scores_digest)))


def _job_settled(state: JobState, event: ev.JobSettled) -> JobState:
    _require(len(state.revealed) >= state.quorum, state, "fewer seats have revealed than a quorum")
    _require(0 <= event.total <= state.bounty, state, f"a total of {event.total}")
    _require(event.payees <= state.cohort_size, state, f"{event.payees} payees")
    _require(event.faulty_seats < 1 << len(state.evaluators), state, "a faulty seat that does not exist")
    return replace(
        state,
        phase=Phase.SETTLED,
        phase_start=event.at,
        payout_root=event.payout_root,
        total=event.total,
        payees=event.payees,
        model_digest=event.model_digest,
        faulty_seats=event.faulty_seats,
    )


def _paid(state: JobState, event: ev.Paid) -> JobState:
    _require(state.claims_expired_amount is None, state, "claims are over")
    _require(event.index < state.payees, state, f"payout {event.index} does not exist")
    _require(not state.paid_indices >> event.index & 1, state, f"payout {event.index} was already paid")
    _require(state.paid + event.amount <= state.total, state, "more is paid than was settled")
    paid_indices = state.paid_indices | 1 << event.index
    return replace(state, paid=state.paid + event.amount, paid_indices=paid_indices)


def _fee_paid(state: JobState, event: ev.FeePaid) -> JobState:
    _require(state.claims_expired_amount is None, state, "claims are over")
    _require(event.index < len(state.evaluators), state, f"seat {event.index} does not exist")
    bit = 1 << event.index
    _require(bool(state.fee_seats & bit), state, f"seat {event.index} earned no fee")
    _require(not state.fees_paid_to & bit, state, f"the fee of seat {event.index} was already paid")
    _require(event.amount == state.fee_per_seat, state, f"a fee of {event.amount}")
    return replace(state, fees_paid=state.fees_paid + event.amount, fees_paid_to=state.fees_paid_to | bit)


def _refunded(state: JobState, event: ev.Refunded) -> JobState:
    _require(0 < event.amount == state.refundable, state, f"a refund of {event.amount}")
    return replace(state, refunded=state.refunded + event.amount)


def _claims_expired(state: JobState, event: ev.ClaimsExpired) -> JobState:
    _require(state.claims_expired_amount is None, state, "claims were over before")
    _require(event.amount == state.unclaimed, state, f"{event.amount} unclaimed")
    return replace(state, claims_expired_amount=event.amount, bonds=frozenset())


def _job_aborted(state: JobState, event: ev.JobAborted) -> JobState:
    _require(event.from_phase is state.phase, state, f"aborted from {event.from_phase.name.lower()}")
    return replace(state, phase=Phase.ABORTED, phase_start=event.at)


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: what the event does, what the contract asks for, and where it may lead."""

    apply: Callable[[JobState, Any], JobState]
    caller: str
    condition: str
    targets: tuple[Phase, ...]


_E, _T, _C, _R, _S, _A = (Phase(number) for number in range(1, 7))


def _forfeit(phase: Phase) -> Transition:
    return Transition(_bond_forfeited, "anybody", "two different updates of one round, once", (phase,))


TABLE: Final[Mapping[tuple[Phase, type[JobEvent]], Transition]] = {
    (_E, ev.SeatTaken): Transition(_seat_taken, "named evaluator", "stake is free", (_E,)),
    (_E, ev.BondDeposited): Transition(_bond_deposited, "anybody", "one per data owner", (_E,)),
    (_E, ev.EnrolledDirectly): Transition(
        _enrolled_directly, "data owner or relayer", "before the enrolment deadline", (_E,)
    ),
    (_E, ev.CohortAnchored): Transition(
        _cohort_anchored, "anybody, signed by a quorum", "deadline passed, or the cohort is full", (_T,)
    ),
    (_E, ev.JobAborted): Transition(
        _job_aborted, "requester, or anybody after the anchor window", "no cohort is anchored", (_A,)
    ),
    (_T, ev.UpdateSubmittedDirectly): Transition(
        _update_submitted_directly, "data owner or relayer", "before the round's deadline", (_T,)
    ),
    (_T, ev.RoundAnchored): Transition(
        _round_anchored, "anybody, signed by a quorum", "deadline passed, or every update is in", (_T,)
    ),
    (_T, ev.BondForfeited): _forfeit(_T),
    (_T, ev.PhaseChanged): Transition(
        _phase_changed,
        "with the last round's anchor, or anybody after the anchor window",
        "at least one round is anchored",
        (_C,),
    ),
    (_T, ev.JobAborted): Transition(
        _job_aborted, "anybody after the anchor window", "no round is anchored", (_A,)
    ),
    (_C, ev.StoodBy): Transition(
        _stood_by,
        "evaluator with a seat that has not committed",
        "before the commit deadline, once",
        (_C,),
    ),
    (_C, ev.ScoresCommitted): Transition(
        _scores_committed, "evaluator with a seat", "before the commit deadline, once", (_C,)
    ),
    (_C, ev.BondForfeited): _forfeit(_C),
    (_C, ev.PhaseChanged): Transition(
        _phase_changed, "with the last commit, or anybody after the deadline", "a quorum has committed", (_R,)
    ),
    (_C, ev.JobAborted): Transition(
        _job_aborted, "anybody after the commit deadline", "fewer than a quorum have committed", (_A,)
    ),
    (_R, ev.ScoresRevealed): Transition(
        _scores_revealed, "evaluator who committed", "before the reveal deadline, once, as committed", (_R,)
    ),
    (_R, ev.BondForfeited): _forfeit(_R),
    (_R, ev.JobSettled): Transition(
        _job_settled,
        "anybody, signed by a quorum of seats that revealed and are not faulty",
        "deadline passed, or every commitment is revealed",
        (_S,),
    ),
    (_R, ev.JobAborted): Transition(_job_aborted, "anybody after the settle window", "not settled", (_A,)),
    (_S, ev.Paid): Transition(_paid, "anybody", "a leaf of the payout tree, once", (_S,)),
    (_S, ev.FeePaid): Transition(_fee_paid, "anybody", "seats that revealed and are not faulty, once", (_S,)),
    (_S, ev.Refunded): Transition(_refunded, "anybody", "something is refundable", (_S,)),
    (_S, ev.BondReturned): Transition(_bond_returned, "anybody", "to who paid it, once", (_S,)),
    (_S, ev.BondForfeited): _forfeit(_S),
    (_S, ev.ClaimsExpired): Transition(_claims_expired, "anybody after the claim window", "once", (_S,)),
    (_A, ev.Refunded): Transition(_refunded, "anybody", "something is refundable", (_A,)),
    (_A, ev.BondReturned): Transition(_bond_returned, "anybody", "to who paid it, once", (_A,)),
    (_A, ev.BondForfeited): _forfeit(_A),
}
"""Every pair of phase and event that the contract can log."""


def table_markdown() -> str:
    """``TABLE`` as a Markdown table, for ``docs/protocol.md``."""
    lines = ["| phase | event | who may cause it | condition | next phase |", "|---|---|---|---|---|"]
    for (phase, event), row in TABLE.items():
        targets = " or ".join(target.name.lower() for target in row.targets)
        lines.append(
            f"| {phase.name.lower()} | `{event.__name__}` | {row.caller} | {row.condition} | {targets} |"
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Command:
    """What may be done now: a function of the contract, and who may call it (anybody where empty)."""

    function: str
    actors: tuple[Address, ...] = ()
    round_index: int | None = None


def due(state: JobState, now: int, *, candidates: int = 0) -> tuple[Command, ...]:
    """What may be done at chain time ``now``.

    Args:
        state: where the job stands.
        now: Unix seconds.
        candidates: how many valid enrolments (while enrolling) or updates (of the round under way) there are,
            relayed and direct ones together; a full cohort or round need not wait for its deadline.
    """
    deadline = state.deadline
    is_closed = deadline is not None and now >= deadline
    commands = list(_DUE[state.phase](state, is_closed, candidates)) if state.phase in _DUE else []
    if state.expires_at is not None and now >= state.expires_at:
        commands.append(Command("expire"))
    return tuple(commands)


def _due_enrolling(state: JobState, is_closed: bool, candidates: int) -> list[Command]:
    commands = []
    if missing := tuple(evaluator for evaluator in state.evaluators if evaluator not in state.seats):
        commands.append(Command("takeSeat", missing))
    is_ready = is_closed or candidates >= state.maximum_owners
    if is_ready and candidates >= state.minimum_owners and len(state.seats) >= state.quorum:
        commands.append(Command("anchorCohort"))
    return commands


def _due_training(state: JobState, is_closed: bool, candidates: int) -> list[Command]:
    is_ready = is_closed or candidates >= state.cohort_size
    if is_ready and candidates >= state.minimum_owners and state.round_index < state.rounds:
        return [Command("anchorRound", round_index=state.round_index)]
    return []


def _due_committing(state: JobState, is_closed: bool, _candidates: int) -> list[Command]:
    missing = tuple(e for e in state.evaluators if e in state.seats and e not in state.committed)
    return [Command("commitScores", missing)] if missing and not is_closed else []


def _due_revealing(state: JobState, is_closed: bool, _candidates: int) -> list[Command]:
    revealed = {evaluator for evaluator, _ in state.revealed}
    missing = tuple(e for e in state.evaluators if e in state.committed and e not in revealed)
    commands = [Command("revealScores", missing)] if missing and not is_closed else []
    if (is_closed or not missing) and len(revealed) >= state.quorum:
        commands.append(Command("settle"))
    return commands


def _due_settled(state: JobState, _is_closed: bool, _candidates: int) -> list[Command]:
    commands = []
    if state.claims_expired_amount is None:
        if state.paid < state.total:
            commands.append(Command("pay"))
        if state.fees_paid < state.fees_owed:
            commands.append(Command("payFees"))
    return commands + _due_aborted(state, False, 0)


def _due_aborted(state: JobState, _is_closed: bool, _candidates: int) -> list[Command]:
    commands = [Command("refund")] if state.refundable else []
    if state.bonds:
        commands.append(Command("returnBond"))
    return commands


_DUE: Final[Mapping[Phase, Callable[[JobState, bool, int], list[Command]]]] = {
    Phase.ENROLLING: _due_enrolling,
    Phase.TRAINING: _due_training,
    Phase.COMMITTING: _due_committing,
    Phase.REVEALING: _due_revealing,
    Phase.SETTLED: _due_settled,
    Phase.ABORTED: _due_aborted,
}
