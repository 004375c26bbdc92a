"""Who takes part in a job, what is awaited of each, and what it last said."""

from __future__ import annotations

from dataclasses import dataclass

from galaxylearning.messages.records import SignedEnrolment, SignedOpening, SignedUpdate
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.presence import PresenceBoard
from galaxylearning.nodes.site import Site
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.units import Address, round_name


@dataclass(frozen=True, slots=True)
class Party:
    """``role`` is ``evaluator`` or ``data owner``. ``awaited`` is what others wait for; empty if nothing."""

    role: str
    account: Address
    status: str
    awaited: str


async def parties(site: Site, view: ChainView, terms: Terms, state: JobState) -> list[Party]:
    """Everybody in a job, as chain and board show them now.

    Raises:
        BlobMissing: the anchored cohort cannot be found on the board.
    """
    board = Board(site, state.job_id)
    found = [await _evaluator(board, state, who) for who in state.evaluators]
    if state.phase is Phase.ENROLLING:
        found += [Party("data owner", who, "enrolled", "") for who in await enrolled(board, view, state)]
    elif state.phase is Phase.TRAINING:
        found += await _owners(site, board, view, terms, state)
    elif state.cohort_size:
        cohort = await assembly.anchored_cohort(site, board, view, terms, state)
        found += [Party("data owner", who, "in the cohort", "") for who in cohort.data_owners]
    return found


async def enrolled(board: Board, view: ChainView, state: JobState) -> list[Address]:
    """Who has enrolled so far, on the board or on chain; nobody has judged yet who is in the cohort."""
    found = {record.signer for record in (await board.read("enrolments", SignedEnrolment)).values()}
    found |= {
        event.enrolment.data_owner
        for event in view.head_events_of(state.job_id)
        if isinstance(event, ev.EnrolledDirectly)
    }
    return sorted(found)


async def _evaluator(board: Board, state: JobState, who: Address) -> Party:
    if who not in state.seats:
        is_late = state.phase is not Phase.ENROLLING
        return Party(
            "evaluator", who, "no seat taken", "" if is_late else "its seat, by a transaction of its own"
        )
    if state.phase is Phase.TRAINING:
        votes = await board.votes(f"round/{state.round_index}/openings", SignedOpening, state.seats)
        if any(who in signers for signers in votes.values()):
            return Party("evaluator", who, f"opened {round_name(state.round_index)}", "")
        return Party(
            "evaluator", who, "seated", f"its signature on the model of {round_name(state.round_index)}"
        )
    if state.phase is Phase.COMMITTING and who not in state.committed:
        step = "stands by" if who in state.standing_by else "seated"
        return Party("evaluator", who, step, "the commitment to its scores")
    if state.phase is Phase.REVEALING and who in state.committed and who not in dict(state.revealed):
        return Party("evaluator", who, "committed", "its scores")
    return Party("evaluator", who, "done so far", "")


async def _owners(site: Site, board: Board, view: ChainView, terms: Terms, state: JobState) -> list[Party]:
    cohort = await assembly.anchored_cohort(site, board, view, terms, state)
    name = f"round/{state.round_index}"
    sent = {record.signer for record in (await board.read(f"{name}/updates", SignedUpdate)).values()}
    sent |= {
        event.update.data_owner
        for event in view.events_of(state.job_id)
        if isinstance(event, ev.UpdateSubmittedDirectly) and event.update.round_index == state.round_index
    }
    presence = PresenceBoard(site, board, terms, state.job_id)
    missing = {
        one.account: one
        for one in await presence.missing(state.round_index, cohort.data_owners, sent, now=view.now)
    }
    return [
        Party("data owner", who, missing[who].reason, f"its update of {round_name(state.round_index)}")
        if who in missing
        else Party("data owner", who, f"sent its update of {round_name(state.round_index)}", "")
        for who in cohort.data_owners
    ]
