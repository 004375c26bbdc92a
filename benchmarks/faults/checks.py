"""The invariants of a finished run. Each returns what does not hold, in words; nothing means all is well."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from benchmarks.faults.oracle import LEVEL, OneHot, compiled
from benchmarks.faults.play import JOB_ID, Played, passer_by, play, sealing_key, signer
from benchmarks.faults.scenario import EVALUATORS, NEVER, Scenario
from benchmarks.faults.seeded_sealing import seeded_sealing
from numpy.typing import NDArray

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import GalaxyError
from galaxylearning.learning import UpdateMatrix
from galaxylearning.messages.records import (
    SignedAnswer,
    SignedAnswerSet,
    SignedEnrolment,
    SignedOpening,
    SignedRecord,
    SignedUpdate,
    encode,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly, requester
from galaxylearning.nodes.auditor import Auditor
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import Site
from galaxylearning.protocol import events as ev
from galaxylearning.protocol import scoring
from galaxylearning.protocol.cohort import AcceptedUpdates, Cohort
from galaxylearning.protocol.hidden_set import HiddenSet
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import quantizer
from galaxylearning.simulation.faults import FaultSource
from galaxylearning.simulation.light_registry import BURN
from galaxylearning.simulation.stage import STAKE, SUPPLY
from galaxylearning.simulation.virtual_time import VirtualLoop
from galaxylearning.units import Address

TOLERANCE = 1e-6
"""Relative, of a parameter's move: it is rounded to float32."""


_E = TypeVar("_E", bound=ev.JobEvent)
_R = TypeVar("_R", bound=SignedRecord)

OPENED_EVERY = 3
"""Every third job is audited with an evaluator's key, the others as anybody can."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The job as a passer-by without faults sees it afterwards."""

    played: Played
    site: Site
    view: ChainView
    board: Board
    state: JobState
    terms: Terms
    names: dict[Address, str]


def checked(scenario: Scenario, *, source: FaultSource | None = None) -> tuple[Played, list[str]]:
    """Run a scenario and look for what does not hold."""
    played = play(scenario, source=source)
    loop = VirtualLoop.seeded("afterwards")
    with seeded_sealing():
        found = loop.run(violations(played, passer_by(played)))
    loop.close()
    return played, found


async def violations(played: Played, site: Site) -> list[str]:
    """Everything that does not hold of a run; ``site`` is a passer-by's, without faults."""
    found = [*_ending(played), *played.made.conflicts]
    if played.state is None:
        return found
    view = ChainView(played.ledger, played.blobs)
    await view.refresh()
    names = {signer(name).address: name for name in (*EVALUATORS, *played.scenario.owners)}
    board = Board(site, JOB_ID)
    terms = await view.terms(JOB_ID)
    seen = Seen(played, site, view, board, await view.state(JOB_ID), terms, names)
    found += _money(seen)
    found += await _said_once(seen)
    members: set[Address] = set()
    if seen.state.cohort_size:
        cohort = await assembly.anchored_cohort(site, board, view, terms, seen.state)
        members = set(cohort.data_owners)
        found += await _rounds(seen, cohort)
    found += _given_up(seen, members)
    found += await _audited(seen)
    if seen.state.phase is Phase.SETTLED:
        found += await _collected(seen)
    return found


# ---- how it ended


def _ending(played: Played) -> Iterator[str]:
    scenario, state = played.scenario, played.state
    if state is None or played.ended_at_s is None:
        phase = "was never posted" if state is None else f"is {state.phase.name.lower()}"
        yield f"the job did not end: it {phase}"
        return
    if scenario.must_settle and state.phase is not Phase.SETTLED:
        yield f"the job ended {state.phase.name.lower()} where it had to be settled"
    has_evaluator = any(
        not any(away.node == name and away.for_s == NEVER for away in scenario.absences)
        for name in EVALUATORS
    )
    if played.had_help and has_evaluator:
        yield "no evaluator ended the job in time"
    for name in played.unfinished:
        yield f"{name} had not finished long after the job had ended"
    for what in played.fatal:
        yield f"a node's process ended: {what}"
    if state.faulty_seats:
        yield f"honest evaluators were named faulty: {state.faulty_seats:b}"
    if len(played.ledger.jobs.jobs) != 1:
        yield f"{len(played.ledger.jobs.jobs)} jobs were posted"


def _given_up(seen: Seen, members: set[Address]) -> Iterator[str]:
    """Nobody gives a job up but a data owner that enrolled too late to be in its cohort."""
    for at_s, name, progress in seen.played.told:
        is_left_out = name in seen.played.scenario.owners and signer(name).address not in members
        if progress.step == "given up" and not is_left_out:
            yield f"{name} gave the job up at {at_s:.0f} s: {progress.facts}"


# ---- money


def _money(seen: Seen) -> Iterator[str]:
    played, state = seen.played, seen.state
    ledger, token = played.ledger, played.ledger.token
    spent = state.paid + state.fees_paid + state.refunded
    if spent != state.escrow:
        yield f"payouts {state.paid} + fees {state.fees_paid} + refund {state.refunded} != {state.escrow}"
    if state.phase is Phase.SETTLED and (state.paid, state.fees_paid) != (state.total, state.fees_owed):
        yield f"paid {state.paid} of {state.total} and fees {state.fees_paid} of {state.fees_owed}"
    if state.phase is Phase.ABORTED and state.refunded != state.escrow:
        yield f"an aborted job refunded {state.refunded} of {state.escrow}"
    supply = SUPPLY * (1 + len(EVALUATORS))
    if (total := sum(token.balances.values())) != supply:
        yield f"there are {total} tokens of {supply}"
    if (held := token.balances.get(ledger.address_of("jobs"), 0)) != 0:
        yield f"the contract still holds {held}"
    paid = {event.account: event.amount for event in _events(seen, ev.Paid)}
    for name in played.scenario.owners:
        who = signer(name).address
        if token.balances.get(who, 0) != paid.get(who, 0):
            yield f"{name} has {token.balances.get(who, 0)}, and was paid {paid.get(who, 0)}"
    stakes = sum(account.staked for account in ledger.registry.accounts.values())
    if stakes + token.balances.get(BURN, 0) != STAKE * len(EVALUATORS):
        yield "stakes and what was burned of them are not what was deposited"
    if any(account.locked for account in ledger.registry.accounts.values()):
        yield "stake is still locked"
    for name in EVALUATORS:
        if ledger.registry.accounts[signer(name).address].staked != STAKE and not _let_down(seen, name):
            yield f"{name} did what it had to and was slashed"


def _let_down(seen: Seen, name: str) -> bool:
    """Whether an evaluator took a seat and then did not commit, stand by, or reveal, in time."""
    who, state = signer(name).address, seen.state
    if who not in state.seats or (
        state.phase is Phase.ABORTED and who in state.standing_by - state.committed
    ):
        return False
    is_committing_over = any(
        isinstance(e, ev.PhaseChanged | ev.JobAborted) for e in _events(seen, ev.JobEvent)
    )
    return is_committing_over and (who not in state.committed or who not in dict(state.revealed))


def _events(seen: Seen, kind: type[_E]) -> list[_E]:
    return [event for event in seen.view.events_of(JOB_ID) if isinstance(event, kind)]


# ---- what was said


async def _said_once(seen: Seen) -> list[str]:
    """Nobody said two things where one may be said."""
    found = await _once(seen, "enrolments", SignedEnrolment, "enrolments")
    for index in range(seen.state.rounds):
        name, made = f"round/{index}", seen.played.made.made
        found += await _once(seen, f"{name}/updates", SignedUpdate, f"updates of round {index}")
        for update in (await seen.board.read(f"{name}/updates", SignedUpdate)).values():
            if (index, update.signer) not in made:
                found.append(
                    f"{seen.names[update.signer]} signed an update of round {index} that it never made"
                )
        openings: dict[Address, set[bytes]] = {}
        for opening in (await seen.board.read(f"{name}/openings", SignedOpening)).values():
            openings.setdefault(opening.signer, set()).add(opening.model_digest)
        found += _twice(seen, openings, f"models for round {index}")
        for phase in ("gate", "sum", "value", "twins") if seen.terms.privacy == "masked" else ():
            where = f"{phase} of round {index}"
            found += await _once(seen, f"{name}/{phase}/answers", SignedAnswer, f"answers to the {where}")
            found += await _once(
                seen, f"{name}/{phase}/keys", SignedAnswer, f"keys of answers to the {where}"
            )
            found += await _once(
                seen, f"{name}/{phase}/sets", SignedAnswerSet, f"sets of answers to the {where}"
            )
    return found


async def _once(seen: Seen, topic: str, kind: type[_R], what: str) -> list[str]:
    """Who signed two different things of a kind."""
    said: dict[Address, set[bytes]] = {}
    for record in (await seen.board.read(topic, kind)).values():
        said.setdefault(record.signer, set()).add(bytes(record.message.struct_hash()))
    return _twice(seen, said, what)


def _twice(seen: Seen, said: Mapping[Address, Collection[bytes]], what: str) -> list[str]:
    return [f"{seen.names[who]} signed {len(each)} {what}" for who, each in said.items() if len(each) > 1]


# ---- rounds, model, scores


async def _rounds(seen: Seen, cohort: Cohort) -> list[str]:
    """What was anchored is what was signed; model and scores follow from it, and from nothing else."""
    state, terms = seen.state, seen.terms
    try:
        anchors = _events(seen, ev.RoundAnchored)
        accepted = [
            await assembly.anchored_updates(seen.site, seen.board, seen.view, terms, anchor, cohort)
            for anchor in anchors
        ]
    except GalaxyError as error:
        return [f"what was anchored cannot be found: {error}"]
    found = []
    owners = {signer(name).address for name in seen.played.scenario.owners}
    if not set(cohort.data_owners) <= owners or len(set(cohort.data_owners)) != cohort.size:
        found.append("the cohort is not one of those who enrolled, each once")
    compiled_job = compiled(terms.privacy, terms.plan.rounds, terms.plan.maximum_owners)
    job = JobComputation(
        terms, JOB_ID, compiled_job.model, HiddenSet.split(compiled_job.test, seed=terms.seed)
    )
    expected = {place: Fraction(0) for place in range(job.sizes[0])}
    before = job.state.params.astype(np.float64)
    for anchor, updates in zip(anchors, accepted, strict=True):
        if anchor.model_digest != job.model_digest():
            found.append(
                f"round {anchor.round_index} began at another model than follows from the ones before"
            )
        found += await _round(seen, job, cohort, updates, expected)
    after = job.state.params.astype(np.float64)
    found += _sum(job, after - before, expected)
    if state.phase is Phase.SETTLED:
        found += await _scores(seen, job, cohort)
    return found


async def _round(
    seen: Seen,
    job: JobComputation,
    cohort: Cohort,
    updates: AcceptedUpdates,
    expected: dict[int, Fraction],
) -> list[str]:
    """Advance ``job`` by what the oracle knows of an anchored round, and add what the model must move by."""
    index, made = job.round_index, seen.played.made.made
    senders = sorted(updates.by_data_owner, key=lambda who: int(who, 16))
    if unknown := [seen.names[who] for who in senders if (index, who) not in made]:
        return [f"round {index} holds updates that nobody made: {unknown}"]
    rows = np.zeros((len(senders), job.sizes[0]), np.int16)
    for row, who in enumerate(senders):
        rows[row, made[index, who].place] = made[index, who].value
    absent = [who for who in cohort.data_owners if who not in senders]
    outcome = job.advance_updates(
        UpdateMatrix(tuple(senders), rows, np.zeros((len(senders), 0), np.int32), seen.terms.plan.bits),
        absent=absent,
        beacon=await seen.view.beacon(JOB_ID, index),
    )
    weights = {decision.data_owner: decision.weight for decision in outcome.decisions if decision.weight}
    if not set(weights) <= set(senders):
        return [f"round {index} weighs an update that was not accepted"]
    for who, weight in weights.items():
        hot: OneHot = made[index, who]
        expected[hot.place] += Fraction(weight * hot.value, sum(weights.values()))
    return []


def _sum(job: JobComputation, moved: NDArray[np.float64], expected: dict[int, Fraction]) -> list[str]:
    """The model moved by the exact weighted sum: at the right places, by the right amounts, nowhere else."""
    unit = job.terms.plan.server_learning_rate / quantizer(job.terms.plan, job.sizes[0]).scale
    found = []
    for place, levels in expected.items():
        wanted = float(levels) * unit
        if not levels and moved[place] != 0.0:
            found.append(f"parameter {place} moved by {moved[place] / unit:.3f} levels, and nobody said so")
        if abs(moved[place] - wanted) > TOLERANCE + abs(wanted) * TOLERANCE:
            found.append(
                f"parameter {place} moved by {moved[place] / unit:.3f} levels instead of {float(levels):.3f}"
            )
        if abs(levels) > len(job.outcomes) * LEVEL:
            found.append(f"parameter {place} was counted twice: {float(levels):.3f} levels")
    return found


async def _scores(seen: Seen, job: JobComputation, cohort: Cohort) -> list[str]:
    """Every revealed table is the oracle's, byte for byte, and what is paid follows from it."""
    state, found = seen.state, []
    if state.model_digest != job.model_digest():
        found.append("the settled model is not the one that the accepted updates give")
    own = scoring.score_table(job, cohort.data_owners)
    digest = blake3_digest(encode(own))
    found += [
        f"{seen.names[who]} revealed another table than the updates give"
        for who, revealed in state.revealed
        if revealed != digest
    ]
    tree, _ = scoring.payouts(
        seen.terms,
        chain_id=seen.played.ledger.chain_id,
        contract=seen.played.ledger.address_of("jobs"),
        job_id=JOB_ID,
        tables=[(digest, own)],
    )
    if (tree.root, tree.total) != (state.payout_root, state.total):
        found.append(f"{state.total} was settled where the scores give {tree.total}")
    return found


# ---- afterwards


async def _audited(seen: Seen) -> list[str]:
    key = sealing_key(EVALUATORS[0]) if seen.played.scenario.seed % OPENED_EVERY == 0 else None
    report = await Auditor(seen.site, JOB_ID, key=key).run()
    return [f"the audit found: {one.check}, {one.detail}: {one.problem}" for one in report.problems]


async def _collected(seen: Seen) -> list[str]:
    """The requester gets the model it paid for."""
    try:
        data = await requester.collect(seen.site, JOB_ID, sealing_key("requester"))
    except GalaxyError as error:
        return [f"the requester gets no model: {error}"]
    return [] if blake3_digest(data) == seen.state.model_digest else ["the requester gets another model"]
