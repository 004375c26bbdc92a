"""The requester: posts a job with its bounty in escrow, may then go offline, and later fetches the model.

Until a job is over, posting the same one again finds it on chain by what its terms say, also without the
journal, and escrows nothing. What is sealed for a job is journalled, so that a posting which was interrupted
before it was on chain goes on under the same terms. Once it is over, posting the same again is another job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from msgspec.structs import replace

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealContext, SealingKey, seal
from galaxylearning.errors import BlobDamaged, BlobMissing, JobRefused, LedgerError, PhaseError, Refused
from galaxylearning.graph import weights_from_bytes, weights_size
from galaxylearning.messages.records import MAX_LIST_BYTES, SEALING_KEY_BYTES, ModelRelease
from galaxylearning.messages.terms import Terms, encode_terms
from galaxylearning.nodes import assembly
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.posting import require_recipients
from galaxylearning.nodes.site import Progress, Site, keep_going
from galaxylearning.nodes.stake import read_stake
from galaxylearning.nodes.windows import require_windows
from galaxylearning.ports import Call
from galaxylearning.protocol import calls
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.job import CompiledJob, terms_of
from galaxylearning.protocol.machine import Phase
from galaxylearning.protocol.rows import rows_to_bytes
from galaxylearning.units import TOKEN_DECIMALS, ZERO_DIGEST, Address, Digest, in_tokens


@dataclass(frozen=True, slots=True)
class PostedJob:
    """A job on chain: its number, its terms, and what posting it cost (None where it was posted before)."""

    job_id: int
    terms: Terms
    gas_used: int | None


async def post(
    site: Site,
    compiled: CompiledJob,
    *,
    evaluators: Sequence[Address],
    sealing_key: SealingKey,
    copy: int = 1,
    stagger_s: float | None = None,
) -> PostedJob:
    """Seal model and test set to the evaluators, publish the terms, escrow bounty and fees.

    Returns once the posting is final: from then on the requester may go offline. ``copy`` says which of
    several equal jobs of this account this is, counted from 1 among those that are not over: with 2 a second
    one is posted beside the first. Where ``stagger_s`` is given, windows must be long enough for evaluators
    that wait so long for each other (``nodes.windows``).

    Raises:
        BlobMissing, BlobDamaged: the terms of a job of this account that is not over, at the same price,
            cannot be had.
        JobRefused: an evaluator is not registered or has too little free stake, the terms are not acceptable,
            a window is too short, or the account has too few tokens.
        TransactionReverted: the contract refused.
        StorageError, LedgerUnreachable: the store or the chain failed; nothing is escrowed then, or posting
            the same job again goes on with it.
    """
    keys = [await _evaluator_key(site, evaluator) for evaluator in evaluators]
    test = rows_to_bytes(compiled.test)

    def terms_with(model_blob: Digest, test_blob: Digest) -> Terms:
        return terms_of(
            compiled,
            requester=site.address,
            requester_key=sealing_key.digest,
            evaluators=[(who, blake3_digest(key)) for who, key in zip(evaluators, keys, strict=True)],
            token=site.ledger.address_of("token"),
            decimals=TOKEN_DECIMALS,
            model_blob=model_blob,
            test_blob=test_blob,
            test_digest=blake3_digest(test),
        )

    contract = site.ledger.address_of("jobs").lower()
    view = ChainView(site.ledger, site.blobs)
    await view.refresh()
    draft_terms = terms_with(ZERO_DIGEST, ZERO_DIGEST)
    require_recipients(draft_terms)
    draft = blake3_digest(encode_terms(draft_terms)).hex()
    running = await _running(view, draft_terms)
    if len(running) >= copy:
        job_id, terms = running[copy - 1]
        if job_id not in _jobs_under(view, terms):
            job_id = await _final_job_id(site, view, terms, _jobs_under(view, terms), job_id)
        return PostedJob(job_id, terms, None)
    posted = {first.terms_digest for first in map(view.head_posting, view.head_job_ids) if first is not None}
    topic = f"terms/{site.address.lower()}"
    for number in count():
        step = f"post/{site.ledger.chain_id}/{contract}/{draft}/{number}"
        is_resumed = len(site.journal.steps(f"{step}/")) > 0
        if not is_resumed:  # else the escrow may be paid already
            if stagger_s is not None:
                finality_s = await site.ledger.finality_s()
                require_windows(draft_terms, finality_s=finality_s, stagger_s=stagger_s)
            await require_tokens(site, calls.escrow(draft_terms))
            await require_stakes(site, draft_terms)
        blobs = []
        for kind, plaintext in (("initial-model", compiled.model_bytes), ("test-set", test)):
            context = SealContext(
                site.ledger.chain_id, site.ledger.address_of("jobs"), 0, 0, kind, site.address
            )
            blob = site.journal.lookup(f"{step}/{kind}")
            if blob is None:
                sealed = seal(plaintext, keys, context, entropy=site.entropy)
                # Stored first: a restarted requester has the digest, not what was sealed.
                blob = site.journal.record(f"{step}/{kind}", await site.blobs.put(sealed, topic=topic))
            blobs.append(Digest(blob))
        terms = terms_with(*blobs)
        if terms.digest not in posted:
            break
    await site.blobs.put(encode_terms(terms), topic=topic)
    await site.blobs.put(compiled.graph.to_bytes(), topic=topic)
    await site.blobs.put(sealing_key.public, topic=f"keys/{site.address.lower()}")
    before = _jobs_under(view, terms)
    receipt = await site.submit_spending(calls.escrow(terms), calls.post_job(terms))
    for event in receipt.events:
        if event.name == "JobPosted":
            job_id = int(event.arguments["jobId"])
            if not site.ledger.is_irrevocable:
                job_id = await _final_job_id(site, view, terms, before, job_id)
            return PostedJob(job_id, terms, receipt.gas_used)
    raise LedgerError("the receipt of the posting holds no JobPosted", where="postJob")


async def _final_job_id(
    site: Site, view: ChainView, terms: Terms, before: frozenset[int], provisional: int
) -> int:
    """The number of a posted job once its posting is final: a reorganisation may give it another one."""
    is_told = False

    async def turn() -> bool:
        nonlocal is_told
        await view.refresh()
        is_final = _jobs_under(view, terms) > before
        if not is_final and not is_told:
            is_told = True
            site.report(Progress(provisional, "requester", "posted, waiting until that is final"))
        return is_final

    await keep_going(site, turn)
    return max(_jobs_under(view, terms) - before)


def _jobs_under(view: ChainView, terms: Terms) -> frozenset[int]:
    """The jobs that are finally posted under these terms."""
    posted = ((job_id, view.events_of(job_id)[0]) for job_id in view.job_ids)
    return frozenset(
        job_id
        for job_id, event in posted
        if isinstance(event, ev.JobPosted) and event.terms_digest == terms.digest
    )


async def _running(view: ChainView, draft: Terms) -> list[tuple[int, Terms]]:
    """This account's jobs that say what ``draft`` says and are not over for good, oldest first.

    A provisional posting counts: it is under way. ``draft`` names no blobs; each posting seals its own.

    Raises:
        BlobMissing, BlobDamaged: what one of them says cannot be had.
    """
    price = (draft.requester, int(draft.price.bounty), calls.escrow(draft))
    found = []
    for job_id in view.head_job_ids:
        first = view.head_posting(job_id)
        if first is None or (first.requester, first.bounty, first.bounty + first.fees) != price:
            continue
        if any(isinstance(event, ev.JobSettled | ev.JobAborted) for event in view.events_of(job_id)):
            continue
        try:
            terms = await view.head_terms(job_id)
        except BlobDamaged:
            raise
        except Refused:
            continue
        if replace(terms, model=draft.model, test_set=draft.test_set) == draft:
            found.append((job_id, terms))
    return found


async def require_tokens(site: Site, needed: int) -> None:
    """Nothing is sealed or sent for an escrow that cannot be paid.

    Raises:
        ConfigRefused: the account owns fewer than ``needed`` smallest units.
    """
    await site.require_tokens(needed, "escrow", "bounty and fees")


async def require_stakes(site: Site, terms: Terms) -> None:
    """Nothing is escrowed for evaluators that could not take their seats: the job would never begin.

    Raises:
        JobRefused: one has less free stake than a seat of the job locks.
    """
    needed = int(terms.price.seat_stake)
    for seat in terms.evaluators:
        free = (await read_stake(site.ledger, Address(seat.address))).free
        if free < needed:
            raise JobRefused(
                f"{seat.address} has {in_tokens(free)} tokens of free stake (what a job locks is free again "
                f"when it is over), and a seat takes {in_tokens(needed)}; name another evaluator, lower "
                "price.seat_stake, or let it stake more with 'galaxy evaluator register --stake'",
                where="evaluators",
            )


async def _evaluator_key(site: Site, evaluator: Address) -> bytes:
    known = await site.ledger.read(Call("registry", "evaluator", (evaluator,)))
    digest = Digest(bytes(known["sealingKeyDigest"]))
    if not any(digest):
        raise JobRefused(f"{evaluator} is not a registered evaluator", where="evaluators")
    return await site.blobs.get(digest, max_bytes=SEALING_KEY_BYTES)


async def collect(site: Site, job_id: int, sealing_key: SealingKey) -> bytes:
    """The trained model of a settled job, as safetensors bytes.

    Raises:
        JobRefused: somebody else's job, whose model does not open for ``sealing_key``.
        PhaseError: it is not settled.
        BlobMissing: no released model opens yet, or none is the settled one.
    """
    view = ChainView(site.ledger, site.blobs, only=job_id)
    await view.refresh()
    state = await view.state(job_id)
    if state.phase is not Phase.SETTLED:
        raise PhaseError(f"the job is {state.phase.name.lower()}, not settled", where=f"job {job_id}")
    graph = await assembly.load_graph(site, await view.terms(job_id))
    board = Board(site, job_id)
    for release in (await board.read("release", ModelRelease, max_bytes=MAX_LIST_BYTES)).values():
        try:
            data = await assembly.open_parcel(
                site,
                Digest(release.sealed),
                sealing_key,
                assembly.round_context(site, job_id, 0, "release", Address(release.evaluator)),
                plaintext_bytes=weights_size(graph),
                recipients=1,
            )
        except (Refused, BlobMissing):
            continue
        if blake3_digest(data) == state.model_digest:
            weights_from_bytes(graph, data, max_bytes=len(data))
            return data
    if state.requester != site.address:
        raise JobRefused(
            f"no model is released to this account's key; its requester is {state.requester}",
            where=f"job {job_id}",
        )
    raise BlobMissing("no released model opens to the settled digest", where=f"job {job_id}")
