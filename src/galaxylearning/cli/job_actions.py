"""What the job commands do with a chain, given the ports: read, accept, cancel or close a job, claim."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from galaxylearning import bootstrap
from galaxylearning.cli import job_facts
from galaxylearning.config import Home
from galaxylearning.errors import BlobMissing, JobRefused, PhaseError
from galaxylearning.graph import ModelGraph
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.relayer import push_payments
from galaxylearning.nodes.site import Site
from galaxylearning.nodes.tables import settled_tree
from galaxylearning.ports import GraphFacts
from galaxylearning.protocol import calls
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.consent import refusal, refusal_of_model
from galaxylearning.protocol.machine import JobState, Phase
from galaxylearning.protocol.matching import match_schema
from galaxylearning.sandbox.facts import facts_of
from galaxylearning.storage.datasets import DatasetCatalog
from galaxylearning.storage.shelf import CatalogueShelf
from galaxylearning.units import Address


@dataclass(frozen=True, slots=True)
class ReadJob:
    """A job as chain and blobs show it; ``now`` is the chain's time."""

    job_id: int
    terms: Terms
    state: JobState
    now: int
    graph: ModelGraph = field(repr=False)
    measured: GraphFacts

    def facts(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "job": str(self.job_id),
            **job_facts.terms_facts(self.terms, self.graph, self.measured),
            **job_facts.state_facts(self.state, self.now),
        }


async def read_job(site: Site, job_id: int) -> ReadJob:
    """Read a job.

    Raises:
        MessageRefused: there is no such job.
        GalaxyError: chain or blobs cannot be read, or the job is malformed.
    """
    view = ChainView(site.ledger, site.blobs, only=job_id)
    await view.refresh()
    terms = await view.head_terms(job_id)
    graph = await assembly.load_graph(site, terms)
    measured = facts_of(graph, terms.plan.batch_size)
    return ReadJob(job_id, terms, await view.head_state(job_id), view.now, graph, measured)


def accept_job(home: Home, job: ReadJob) -> dict[str, Any]:
    """Add a job to the policy's accepted ones; says which data sets can take part now.

    Raises:
        PhaseError: data owners no longer enrol.
        ConfigRefused: the policy is not acceptable or full.
    """
    _require_phase(job.state, Phase.ENROLLING)
    digest = job.terms.digest.hex()
    policy = bootstrap.read_policy(home)
    if digest not in policy.accepted:
        policy = msgspec.structs.replace(policy, accepted=(*policy.accepted, digest))
        bootstrap.save_policy(home, policy)
    catalogue = DatasetCatalog(home.catalogue)
    try:
        offered = CatalogueShelf(catalogue).offered()
        files = {entry.name: entry.path for entry in catalogue.list()}
    finally:
        catalogue.close()
    of_model = refusal_of_model(policy, job.terms.digest, job.measured.cost, job.measured.buffers)
    rows = []
    for dataset in offered:
        report = match_schema(job.terms.schema, dataset.columns, arrays=dataset.arrays)
        name, n_rows = dataset.name, dataset.n_rows
        reason = refusal(policy, job.terms, job.terms.digest, dataset=name, n_rows=n_rows, report=report)
        if not Path(files[name]).exists():
            reason = f"its file is not there any more: {files[name]}"
        rows.append({"name": name, "refusal": reason or of_model})
    leaves = job_facts.what_leaves(job.measured, job.terms)
    return {"job": str(job.job_id), "terms_digest": digest, "leaves": leaves, "datasets": rows}


async def claim_payout(site: Site, job_id: int, payee: Address) -> dict[str, Any]:
    """Have ``payee`` paid what a settled job owes it.

    Raises:
        PhaseError: not settled, or paid already.
        JobRefused: nothing owed.
        BlobMissing: neither score tables nor a payout table that give the payouts are there.
        TransactionReverted: the contract refused.
    """
    view = ChainView(site.ledger, site.blobs, only=job_id)
    await view.refresh()
    state = await view.head_state(job_id)
    _require_phase(state, Phase.SETTLED)
    tree = await settled_tree(site, state)
    owed = {row.account: row for row in tree.rows}
    if payee not in owed:
        raise JobRefused(f"{payee} is not paid by this job", where=f"job {job_id}")
    if state.paid_indices >> owed[payee].index & 1:
        raise PhaseError(f"{payee} was paid already", where=f"job {job_id}")
    receipt = await site.submit(calls.claim(tree, payee))
    return {
        "job": str(job_id),
        "account": payee,
        "amount": str(owed[payee].amount),
        "gas": receipt.gas_used,
        "transaction": "0x" + receipt.transaction_hash.hex(),
    }


async def post_bond(site: Site, job_id: int, data_owner: Address) -> dict[str, Any]:
    """Post the bond that a job asks of an identity; it returns to this account when the job is over.

    Raises:
        PhaseError: data owners no longer enrol, or this bond was posted already.
        JobRefused: the job asks for none.
        TransactionReverted: the contract refused, or the account has too few tokens.
    """
    view = ChainView(site.ledger, site.blobs, only=job_id)
    await view.refresh()
    state, terms = await view.head_state(job_id), await view.head_terms(job_id)
    _require_phase(state, Phase.ENROLLING)
    amount = int(terms.price.bond)
    if amount == 0:
        raise JobRefused("asks for no bond", where=f"job {job_id}")
    if data_owner in state.bonds:
        raise PhaseError(f"the bond of {data_owner} was posted already", where=f"job {job_id}")
    receipt = await site.submit_spending(amount, calls.deposit_bond(job_id, data_owner))
    return {
        "job": str(job_id),
        "data_owner": data_owner,
        "amount": str(amount),
        "gas": receipt.gas_used,
    }


async def cancel_job(site: Site, job_id: int) -> dict[str, Any]:
    """Take a job back and fetch its escrow.

    Raises:
        JobRefused: somebody else's job.
        PhaseError: data owners no longer enrol.
        TransactionReverted: the contract refused.
    """
    view = ChainView(site.ledger, site.blobs, only=job_id)
    await view.refresh()
    state = await view.head_state(job_id)
    if state.requester != site.address:
        raise JobRefused(f"only its requester {state.requester} may cancel it", where=f"job {job_id}")
    _require_phase(state, Phase.ENROLLING)
    await site.submit(calls.cancel(job_id))
    await site.submit_if_first(calls.refund(job_id))
    await view.refresh()
    return {"job": str(job_id), "refunded": str((await view.head_state(job_id)).refunded)}


async def close_job(site: Site, job_id: int) -> dict[str, Any]:
    """Do with a job's money what anybody may: move it on past a deadline, pay everybody whom it owes.

    Once the claim window is over, who can still be paid is; what is left then is the requester's.

    Raises:
        PhaseError: the job is under way, and its time is not over.
        BlobMissing: neither score tables nor a payout table that give the payouts are there; all the rest
            is paid.
    """
    view = ChainView(site.ledger, site.blobs, only=job_id)
    await view.refresh()
    before = await view.head_state(job_id)
    is_late = before.expires_at is not None and view.now >= before.expires_at
    returned = _bonds_returned(view, job_id)
    if not (is_late or job_facts.is_settled(before)):
        at = before.expires_at or 0
        raise PhaseError(
            f"the job is {before.phase.name.lower()}; allowed once it is over, or in {at - view.now} s, when "
            "anybody may move it on",
            where=f"job {job_id}",
        )
    if job_facts.is_settled(before):
        try:
            await push_payments(site, before, site.submit_if_first)
        except BlobMissing:
            if not is_late:
                raise  # Later nobody can tell any more whom it was owed.
    if is_late:
        await site.submit_if_first(calls.expire(job_id))
        await view.refresh()
        state = await view.head_state(job_id)
        if job_facts.is_settled(state):
            await push_payments(site, state, site.submit_if_first)
    await view.refresh()
    after = await view.head_state(job_id)
    return {
        "job": str(job_id),
        "phase": after.phase.name.lower(),
        "paid": str(after.paid - before.paid),
        "fees_paid": str(after.fees_paid - before.fees_paid),
        "refunded": str(after.refunded - before.refunded),
        "bonds_returned": _bonds_returned(view, job_id) - returned,
        "unclaimed": str(after.unclaimed if job_facts.is_settled(after) else 0),
        "expires_at": after.expires_at,
    }


def _bonds_returned(view: ChainView, job_id: int) -> int:
    return sum(isinstance(event, ev.BondReturned) for event in view.head_events_of(job_id))


def _require_phase(state: JobState, phase: Phase) -> None:
    if state.phase is not phase:
        raise PhaseError(
            f"the job is {state.phase.name.lower()}; it must be {phase.name.lower()}",
            where=f"job {state.job_id}",
        )
