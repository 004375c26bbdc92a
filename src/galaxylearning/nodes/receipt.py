"""A data owner's receipt: one document that proves what ran on the data, what it was worth, what was paid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from galaxylearning.contribution import from_fixed
from galaxylearning.crypto.merkle import verify_proof
from galaxylearning.errors import AuditFailed, PhaseError
from galaxylearning.messages.records import ScoreTable
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.tables import revealed_tables, settled_tree
from galaxylearning.protocol import events as ev
from galaxylearning.protocol import scoring
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.units import COSINE_UNIT, Address, Digest


async def receipts(site: Site, job_id: int) -> dict[Address, Mapping[str, Any]]:
    """A receipt for every data owner of a settled job.

    Each holds what the chain fixed (terms, cohort, rounds, payout root), what this data owner signed, how
    every round was decided and valued, and the Merkle proof of its payout; the proof is checked here.

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
    tables = await revealed_tables(site, terms, state, cohort.data_owners)
    if not tables:
        raise AuditFailed("no revealed score table is usable", where=f"job {job_id}")
    medians = scoring.median_totals([table for _, table in tables.values()])
    honest = next(
        table
        for seat, (_, table) in tables.items()
        if not state.faulty_seats >> state.evaluators.index(seat) & 1
    )
    reasons = {total.data_owner: total.reason for total in honest.totals}
    updates: dict[int, Mapping[Address, Digest]] = {}
    for anchor in (e for e in view.events_of(job_id) if isinstance(e, ev.RoundAnchored)):
        accepted = await assembly.anchored_updates(site, board, view, terms, anchor, cohort)
        updates[anchor.round_index] = {
            who: one.update.update_digest for who, one in accepted.by_data_owner.items()
        }
    payouts = await _payouts(site, view, state)
    return {
        member.data_owner: {
            "version": 1,
            "job": str(job_id),
            "chain_id": site.ledger.chain_id,
            "contract": site.ledger.address_of("jobs"),
            "data_owner": member.data_owner,
            "terms": _terms(terms),
            "enrolment": {
                "dataset_id": "0x" + member.enrolment.dataset_id.hex(),
                "record": None if member.record is None else member.record.hex(),
            },
            "rounds": _rounds(honest, member.data_owner, updates),
            "twins": [list(group) for group in honest.twins if member.data_owner in group],
            "value": from_fixed(medians[member.data_owner]),
            "reason": reasons[member.data_owner],
            "payout": payouts.get(member.data_owner, {"amount": "0"}),
            "verdict": "ok",
        }
        for member in cohort.members
    }


def _terms(terms: Terms) -> dict[str, Any]:
    return {
        "digest": terms.digest.hex(),
        "title": terms.title,
        "requester": terms.requester,
        "privacy": terms.privacy,
        "graph": terms.graph,
        "bounty": terms.price.bounty,
        "target_gain": terms.price.target_gain,
    }


def _rounds(
    table: ScoreTable, who: Address, updates: Mapping[int, Mapping[Address, Digest]]
) -> list[dict[str, Any]]:
    rows = []
    for scores in table.rounds:
        own = next(score for score in scores.owners if score.data_owner == who)
        sent = updates.get(scores.round_index, {}).get(who)
        rows.append(
            {
                "round_index": scores.round_index,
                "update": None if sent is None else sent.hex(),
                "status": own.status,
                "reason": own.reason,
                "weight": own.weight,
                "value": from_fixed(own.value),
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
        }
    return found
