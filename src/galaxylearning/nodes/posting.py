"""Whether what the chain has of a job is what its terms say: the event of its posting tells a part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from galaxylearning.crypto.seal import MAX_RECIPIENTS, PUBLIC_KEY_BYTES, is_public_key, sealed_bytes
from galaxylearning.errors import JobRefused
from galaxylearning.graph import ModelGraph, meter
from galaxylearning.graph.document import ITEM_BYTES
from galaxylearning.graph.flat import EVALUATION_BYTES
from galaxylearning.learning.plan import MAX_STEPS
from galaxylearning.messages.records import table_bytes
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.site import Site
from galaxylearning.ports import MAX_STEP_BYTES, Call, Ledger
from galaxylearning.protocol.calls import JOB_PARAMETERS, job_parameters
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.updates import hidden_plan
from galaxylearning.units import Digest

STATE_COPIES: Final = 32
"""So many times a model's size are its vectors in memory: gradients of the hidden set's blocks above all."""

NODE_FLOPS: Final = 100_000
"""What calling one node of a graph costs, however small its tensors are, in FLOPs."""


@dataclass(frozen=True, slots=True)
class Bearable:
    """What one job may take of an evaluator: bytes of memory beside the updates, and FLOPs of one round.

    An evaluator computes in its own process, and does nothing else meanwhile: a stranger's job that takes
    too much of either costs it its stakes in all others.
    """

    memory_bytes: int = 8 << 30
    flops: int = 10**14


BEARABLE: Final = Bearable()


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


async def require_keys(site: Site, terms: Terms, job_id: int) -> None:
    """Refuse a job that would have something sealed to a key which no evaluator of it has registered.

    Also to one that nothing can be sealed to, the requester's among them: else who trains or releases a model
    finds that out when the work is done.

    Raises:
        JobRefused: naming the evaluator or the key.
        BlobMissing, BlobRefused: a key cannot be had.
        LedgerError: the chain does not tell.
    """
    for seat in terms.evaluators:
        known = await site.ledger.read(Call("registry", "evaluator", (seat.address,)))
        registered = bytes(known["sealingKeyDigest"]).hex()
        if not registered == seat.sealing_key_digest == seat.sealing_key_blob:
            raise JobRefused(
                f"names a sealing key of evaluator {seat.address} that it has not registered",
                where=f"job {job_id}",
            )
    for name in (terms.requester_key, *(seat.sealing_key_blob for seat in terms.evaluators)):
        key = await site.blobs.get(Digest(bytes.fromhex(name)), max_bytes=PUBLIC_KEY_BYTES)
        if not is_public_key(key):
            raise JobRefused(f"nothing can be sealed to the key {name}", where=f"job {job_id}")


def require_bearable(terms: Terms, graph: ModelGraph, bearable: Bearable) -> None:
    """Refuse a job that would take an evaluator too much memory or time; nothing of it is computed here.

    Raises:
        JobRefused: naming what, how much, and the most.
        GraphRefused: the graph does not take the plan's batches.
    """
    plan, gating = terms.plan, max(1, terms.test_rows // 2)
    paying, batch = terms.paying_rows, min(terms.plan.batch_size, gating)
    hidden = hidden_plan(plan, gating)
    steps = hidden.steps or (hidden.epochs or 0) * -(-gating // batch)
    if steps > MAX_STEPS:
        raise JobRefused(
            f"{steps} steps over half of the test set; at most {MAX_STEPS} allowed", where="plan.epochs"
        )
    one, trained = meter(graph, 1), meter(graph, batch)
    row_bytes = sum(
        math.prod(size or 1 for size in each.shape[1:]) * ITEM_BYTES[each.dtype] for each in graph.inputs
    )
    activations = max(trained.activation_bytes, one.activation_bytes, EVALUATION_BYTES)
    # A backward pass holds about as much again; the test set arrives sealed, is opened, and is cut in halves.
    memory = 2 * activations + STATE_COPIES * one.state_bytes + 4 * terms.test_rows * row_bytes
    # A step takes a forward pass and a backward one, which is about two.
    evaluated = 3 * (plan.midpoints * paying + gating) + 2 * terms.test_rows
    a_step = trained.flops_forward + NODE_FLOPS * len(graph.nodes)
    flops = evaluated * one.flops_forward + 3 * steps * a_step
    for what, needed, most, unit in (
        ("the job", memory, bearable.memory_bytes, "bytes of memory"),
        ("a round", flops, bearable.flops, "FLOPs"),
    ):
        if needed > most:
            raise JobRefused(f"{what} would take some {needed} {unit}; at most {most} here", where="plan")


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
        "score table": table_bytes(owners, plan.rounds),
    }
    if masking is not None:
        answered = max(masking.projections + 1, masking.twin_projections * plan.rounds)
        kept["answers to questions"] = masking.scalars_bytes(owners, answered)
    for what, size in kept.items():
        if size > MAX_STEP_BYTES:
            raise JobRefused(
                f"its {what} may have {size} bytes; a journal keeps {MAX_STEP_BYTES}", where="plan"
            )
