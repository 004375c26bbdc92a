"""Whether what the chain has of a job is what its terms say: the event of its posting tells a part of it."""

from __future__ import annotations

from typing import Final

from galaxylearning.crypto.seal import MAX_RECIPIENTS, sealed_bytes
from galaxylearning.errors import JobRefused
from galaxylearning.messages.terms import Terms
from galaxylearning.ports import MAX_STEP_BYTES, Call, Ledger
from galaxylearning.protocol.calls import JOB_PARAMETERS, job_parameters
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.units import Address

LINE_BYTES: Final = 360
"""Of one data owner in one round of an encoded score table, at most."""


async def require_posted(ledger: Ledger, terms: Terms, job_id: int) -> None:
    """Refuse a job whose escrow, windows, stake or committee on chain are not those of its terms.

    Also one that pays in another token than the deployment's: anybody may mint a token of its own.

    Raises:
        JobRefused: naming what differs.
        LedgerError: the chain does not tell.
    """
    where, token = f"job {job_id}", ledger.address_of("token")
    if terms.price.token != token:
        raise JobRefused(
            f"pays in token {terms.price.token}; allowed: this deployment's, {token}", where=where
        )
    found = await ledger.read(Call("jobs", "job", (job_id,)))
    for name, wanted in zip(JOB_PARAMETERS, job_parameters(terms), strict=True):
        posted = tuple(found[name]) if name == "evaluators" else found[name]
        if posted != wanted:
            raise JobRefused(f"was posted with another {name} than its terms say", where=where)


async def require_keys(ledger: Ledger, terms: Terms, job_id: int) -> None:
    """Refuse a job that would have something sealed to a key which no evaluator of it has registered.

    Raises:
        JobRefused: naming the evaluator.
        LedgerError: the chain does not tell.
    """
    for seat in terms.evaluators:
        known = await ledger.read(Call("registry", "evaluator", (seat.address,)))
        registered = bytes(known["sealingKeyDigest"]).hex()
        if not registered == seat.sealing_key_digest == seat.sealing_key_blob:
            raise JobRefused(
                f"names a sealing key of evaluator {seat.address} that it has not registered",
                where=f"job {job_id}",
            )


async def free_stake(ledger: Ledger, evaluator: Address) -> int:
    """What an evaluator has staked and may still be locked for a seat, in smallest units.

    Raises:
        LedgerError: the chain does not tell.
    """
    known = await ledger.read(Call("registry", "evaluator", (evaluator,)))
    return int(known["staked"]) - int(known["locked"]) - int(known["withdrawing"])


def require_recipients(terms: Terms) -> None:
    """Refuse a job whose models might have to be sealed to more keys than an envelope has room for.

    Raises:
        JobRefused: naming the most data owners.
    """
    given, most = terms.plan.maximum_owners, MAX_RECIPIENTS - len(terms.evaluators)
    if given > most:
        raise JobRefused(
            f"{given} given; allowed: {most}, with the evaluators all that a model can be sealed to",
            where="plan.maximum_owners",
        )


def require_room(job: JobComputation) -> None:
    """Refuse a job with too many data owners, or of which an evaluator would have to write down more at once
    than a journal keeps.

    Raises:
        JobRefused: naming what, its bytes and the most.
    """
    require_recipients(job.terms)
    plan, seats, masking = job.terms.plan, len(job.terms.evaluators), job.masking
    owners = plan.maximum_owners
    kept = {
        "sealed model": sealed_bytes(len(job.model_bytes()), owners + seats),
        "score table": owners * (plan.rounds + 1) * LINE_BYTES,
    }
    if masking is not None:
        answered = max(masking.projections + 1, masking.twin_projections * plan.rounds)
        kept["answers to questions"] = masking.scalars_bytes(owners, answered)
    for what, size in kept.items():
        if size > MAX_STEP_BYTES:
            raise JobRefused(
                f"its {what} may have {size} bytes; a journal keeps {MAX_STEP_BYTES}", where="plan"
            )
