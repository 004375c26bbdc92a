"""What came of a demo's federation: models, values, payments, gas, and what training otherwise would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from galaxylearning import bootstrap
from galaxylearning.chain.transport import Transport, as_int
from galaxylearning.contribution import FixedPointUtility, from_fixed
from galaxylearning.errors import AuditFailed
from galaxylearning.messages.records import MAX_TABLE_BYTES, ScoreTable, decode
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes import requester
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import Site
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.job import CompiledJob
from galaxylearning.protocol.machine import JobState
from galaxylearning.simulation import demo_keys
from galaxylearning.simulation.accuracies import Accuracies
from galaxylearning.simulation.hospitals import Cast
from galaxylearning.units import Address


@dataclass(frozen=True, slots=True)
class PaidOwner:
    """One identity's result: value and standard error per hidden sample, payout in smallest units."""

    data_owner: Address
    name: str
    behaviour: str
    value: float
    standard_error: float
    payout: int
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """What came of it."""

    job_id: int
    terms: Terms
    state: JobState
    view: ChainView
    cast: Cast
    accounts: Mapping[str, Address]
    """Account of every actor, by name."""
    transactions: Mapping[str, int]
    gas: Mapping[str, Any]
    accuracy_before: float
    accuracy_final: float
    accuracy_pooled: float
    accuracy_alone: Mapping[str, float]
    score_table: ScoreTable
    payouts: tuple[PaidOwner, ...]

    def mean_utility(self, utility: int) -> float:
        """A utility of the score table as minus the mean clipped loss per sample."""
        return FixedPointUtility().to_loss(utility) / self.terms.paying_rows


async def outcome_of(
    world: bootstrap.World,
    sites: Mapping[str, Site],
    cast: Cast,
    compiled: CompiledJob,
    posted: requester.PostedJob,
    *,
    seed: int,
) -> Federation:
    """What a settled job of a demo came to, from the chain and the blobs, and what else the data could do.

    ``sites`` are those of every actor, by name; ``seed`` is the demo's, which its keys follow from.

    Raises:
        GalaxyError: something could not be had.
    """
    view = ChainView(world.ledger, world.blobs)
    await view.refresh()
    state = await view.state(posted.job_id)
    key = demo_keys.sealing_key(seed, "requester")
    trained = await requester.collect(sites["requester"], posted.job_id, key)
    table = await _settled_scores(sites["requester"], state)
    accounts = {name: site.address for name, site in sites.items()}
    paid = {
        event.account: event.amount for event in view.events_of(posted.job_id) if isinstance(event, ev.Paid)
    }
    transport = Transport(world.node)
    try:
        sent = {
            name: as_int(await transport.request("eth_getTransactionCount", address, "latest"))
            for name, address in accounts.items()
        }
        gas = await _gas(transport, view, posted.job_id)
    finally:
        await transport.close()
    accuracy = Accuracies(cast, compiled, seed)
    return Federation(
        job_id=posted.job_id,
        terms=posted.terms,
        state=state,
        view=view,
        cast=cast,
        accounts=accounts,
        transactions={
            "data_owner": sum(sent[hospital.name] for hospital in cast.hospitals),
            "requester": sent["requester"],
            "evaluator": sum(sent[name] for name in demo_keys.EVALUATORS),
            "relayer": sent["relayer"],
        },
        gas=gas,
        accuracy_before=accuracy.of(*compiled.model.initial()),
        accuracy_final=accuracy.of(*compiled.model.from_state_bytes(trained)),
        accuracy_pooled=accuracy.pooled(),
        accuracy_alone=accuracy.alone(),
        score_table=table,
        payouts=_paid_owners(cast, accounts, table, state, paid),
    )


def _paid_owners(
    cast: Cast,
    accounts: Mapping[str, Address],
    table: ScoreTable,
    state: JobState,
    paid: Mapping[Address, int],
) -> tuple[PaidOwner, ...]:
    totals = {total.data_owner: total for total in table.totals}
    twins = {member for group in table.twins for member in group}
    found = []
    for hospital in cast.hospitals:
        who = accounts[hospital.name]
        total = totals[who]
        scores = [owner for scores in table.rounds for owner in scores.owners if owner.data_owner == who]
        accepted = sum(1 for score in scores if score.status == "accepted")
        why = f"{accepted} of {state.round_index} accepted"
        if who in twins:
            why += "; twin, paid as one"
        if total.reason:
            why += f"; {total.reason}"
        found.append(
            PaidOwner(
                who,
                hospital.name,
                hospital.behaviour,
                from_fixed(total.value),
                from_fixed(total.standard_error),
                paid.get(who, 0),
                why,
            )
        )
    return tuple(found)


async def _settled_scores(site: Site, state: JobState) -> ScoreTable:
    """The score table of a seat that was not found faulty."""
    for seat, digest in state.revealed:
        if seat not in state.faulty:
            data = await site.blobs.get(digest, max_bytes=MAX_TABLE_BYTES)
            return decode(data, ScoreTable, max_bytes=MAX_TABLE_BYTES)
    raise AuditFailed("every seat was found faulty", where=f"job {state.job_id}")


async def _gas(transport: Transport, view: ChainView, job_id: int) -> dict[str, Any]:
    """Gas of the job's transactions, from their receipts."""
    used: dict[bytes, int] = {}
    found: dict[str, list[int]] = {}
    payees = 0
    for event in view.log:
        if event.arguments.get("jobId") != job_id:
            continue
        if event.name == "Paid":
            payees += 1
        if event.transaction_hash not in used:
            receipt = await transport.request(
                "eth_getTransactionReceipt", "0x" + event.transaction_hash.hex()
            )
            used[event.transaction_hash] = as_int(receipt["gasUsed"])
            found.setdefault(event.name, []).append(used[event.transaction_hash])
    rounds = found.get("RoundAnchored", [])
    return {
        "post": sum(found.get("JobPosted", [])),
        "cohort": sum(found.get("CohortAnchored", [])),
        "rounds": rounds,
        "per_round": max(rounds, default=0),
        "settle": sum(found.get("JobSettled", [])),
        "per_payee": sum(found.get("Paid", [])) // max(1, payees),
        "total": sum(used.values()),
    }
