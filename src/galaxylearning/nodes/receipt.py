"""A data owner's receipt: one document that proves what ran on the data, what it was worth, what was paid."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from galaxylearning.contribution import from_fixed
from galaxylearning.crypto.merkle import verify_proof
from galaxylearning.errors import AuditFailed, PhaseError
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms, loss_unit
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.settled import anchored_rounds, settled_tables
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.tables import RevealedTables, revealed_tables, settled_tree
from galaxylearning.protocol import events as ev
from galaxylearning.protocol import scoring
from galaxylearning.protocol.cohort import AcceptedUpdate
from galaxylearning.protocol.consistency import AnchoredRounds, contradiction, difference, fees_of
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.units import COSINE_UNIT, Address


async def receipts(site: Site, job_id: int) -> dict[Address, Mapping[str, Any]]:
    """A receipt for every data owner of a settled job.

    Each holds what the chain fixed (terms, cohort, rounds, payout root), what this data owner signed, how
    every round was decided and valued, and the Merkle proof of its payout; the proof is checked here. The
    rounds are those of the table that most evaluators revealed, of the tables that contradict neither
    themselves nor the chain. A data owner's gains (``value`` and ``handed_down`` where positive) less its
    charges, but no less than 0, and its losses make its value, where ``reason`` does not say otherwise; all
    are in ``value_unit`` per sample of the test set. The
    payout is what the tables owe for the value and for taking part. Where something of that does not hold
    the ``verdict`` says so, and is ``ok`` otherwise.

    Raises:
        PhaseError: the job is not settled.
        AuditFailed, BlobMissing: what was recorded does not fit together, or is gone.
    """
    view, board = ChainView(site.ledger, site.blobs, only=job_id), Board(site, job_id)
    await view.refresh()
    terms, state = await view.terms(job_id), await view.state(job_id)
    if state.phase is not Phase.SETTLED:
        raise PhaseError(
            f"is {state.phase.name.lower()}; there are receipts once it is settled", where=f"job {job_id}"
        )
    cohort = await assembly.anchored_cohort(site, board, view, terms, state)
    updates: dict[int, Mapping[Address, AcceptedUpdate]] = {}
    for anchor in view.anchors_of(job_id):
        accepted = await assembly.anchored_updates(site, board, view, terms, anchor, cohort)
        updates[anchor.round_index] = accepted.by_data_owner
    tables = await revealed_tables(site, terms, state, cohort.data_owners)
    told = _most_told(tables, terms, state, anchored_rounds(view, state, updates))
    with suppress(AuditFailed):  # Each verdict says whose payout does not follow.
        tables, _ = settled_tables(site, terms, state, tables)
    revealed = [table for _, table in tables.values()]
    medians, owed = scoring.owed(terms, revealed)
    fees, totals = fees_of(terms, revealed), {total.data_owner: total for total in told.totals}
    rows = _rounds(told, updates, novelty=terms.plan.novelty)
    slack = sum(abs(value) for value in medians.values()) // scoring.AGREEMENT
    payouts = await _payouts(site, view, state)
    found: dict[Address, Mapping[str, Any]] = {}
    for member in cohort.members:
        who = member.data_owner
        payout = payouts.get(who, {"amount": "0"})
        verdict = "ok"
        if abs(medians[who] - totals[who].value) > slack:
            verdict = f"its rounds are worth {from_fixed(totals[who].value)}; settled was another value"
        elif int(payout["amount"]) != owed[who]:
            verdict = f"the score tables give a payout of {owed[who]}; settled was another"
        found[who] = {
            "version": 1,
            "job": str(job_id),
            "chain_id": site.ledger.chain_id,
            "contract": site.ledger.address_of("jobs"),
            "data_owner": who,
            "terms": _terms(terms),
            "enrolment": {
                "dataset_id": "0x" + member.enrolment.dataset_id.hex(),
                "record": None if member.record is None else member.record.hex(),
            },
            "rounds": rows[who],
            "twins": [list(group) for group in told.twins if who in group],
            "value": from_fixed(medians[who]),
            "value_unit": loss_unit(terms.loss),
            "reason": totals[who].reason,
            "owed": {"value": str(owed[who] - fees[who]), "participation_fee": str(fees[who])},
            "payout": payout,
            "verdict": verdict,
        }
    return found


def _most_told(tables: RevealedTables, terms: Terms, state: JobState, anchored: AnchoredRounds) -> ScoreTable:
    """Of the tables that contradict nothing, the one that most agree with; ties to the lower digest.

    They agree where they differ in last digits and in shares that are shown only.
    """
    sound = {
        seat: (digest, table)
        for seat, (digest, table) in tables.items()
        if seat not in state.faulty and contradiction(table, terms, anchored) is None
    }
    if not sound:
        raise AuditFailed(
            "no revealed score table follows from itself and from the chain", where=f"job {state.job_id}"
        )
    ordered = [sound[seat] for seat in sorted(sound)]
    agreeing = {
        digest: sum(difference(other, table) is None for _, other in ordered) for digest, table in ordered
    }
    return min(ordered, key=lambda one: (-agreeing[one[0]], one[0]))[1]


def _terms(terms: Terms) -> dict[str, Any]:
    return {
        "digest": terms.digest.hex(),
        "title": terms.title,
        "requester": terms.requester,
        "privacy": terms.privacy,
        "graph": terms.graph,
        "bounty": terms.price.bounty,
        "target_gain": terms.price.target_gain,
        "participation_fee": terms.price.participation_fee,
    }


def _rounds(
    table: ScoreTable, updates: Mapping[int, Mapping[Address, AcceptedUpdate]], *, novelty: bool
) -> Mapping[str, list[dict[str, Any]]]:
    """By data owner: what every round decided of it, and what follows for its value."""
    rows: dict[str, list[dict[str, Any]]] = {total.data_owner: [] for total in table.totals}
    credits, charges = scoring.credits_of(table.rounds, novelty=novelty)
    for scores, credit, charge in zip(table.rounds, credits, charges, strict=True):
        for own in scores.owners:
            sent = updates[scores.round_index].get(Address(own.data_owner))
            rows[own.data_owner].append(
                {
                    "round_index": scores.round_index,
                    "update": None if sent is None else sent.update.update_digest.hex(),
                    "status": own.status,
                    "reason": own.reason,
                    "weight": own.weight,
                    "value": from_fixed(own.value),
                    "handed_down": from_fixed(credit.get(own.data_owner, 0) - own.value),
                    "charge": from_fixed(charge if scoring.is_charged(own) else 0),
                    "standard_error": from_fixed(own.standard_error),
                    "cosine": own.cosine / COSINE_UNIT,
                }
            )
    return rows


async def _payouts(site: Site, view: ChainView, state: JobState) -> dict[Address, dict[str, Any]]:
    tree = await settled_tree(site, state)
    paid = {event.index for event in view.events_of(state.job_id) if isinstance(event, ev.Paid)}
    found = {}
    for row in tree.rows:
        proof = tree.tree.proof(row.index)
        if not verify_proof(state.payout_root, tree.tree.leaf(row.index), proof):
            raise AuditFailed("its proof does not lead to the settled root", where=f"payout {row.index}")
        found[row.account] = {
            "amount": str(row.amount),
            "index": row.index,
            "root": "0x" + state.payout_root.hex(),
            "proof": ["0x" + step.hex() for step in proof],
            "is_paid": row.index in paid,
            "is_expired": row.index not in paid and state.claims_expired_amount is not None,
        }
    return found
