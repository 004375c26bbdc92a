"""Putting a job's facts together from the ports: what evaluators live by and auditors check.

Reads only. Everything is verified on the way in: digests, signatures, roots, shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import SealContext, SealingKey, open_sealed, sealed_bytes
from galaxylearning.errors import (
    BlobDamaged,
    BlobMissing,
    BlobRefused,
    GalaxyError,
    JobRefused,
    MessageRefused,
    Refused,
)
from galaxylearning.graph import FlatModel, ModelGraph, weights_from_bytes, weights_size
from galaxylearning.messages import typed
from galaxylearning.messages.records import (
    MAX_LIST_BYTES,
    MAX_SIGNED_BYTES,
    SEALING_KEY_BYTES,
    CohortList,
    CredentialRecord,
    RoundList,
    SignedEnrolment,
    SignedUpdate,
    Signers,
    decode,
)
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.board import Board
from galaxylearning.nodes.chain_view import ChainView
from galaxylearning.nodes.site import Site
from galaxylearning.protocol import events as ev
from galaxylearning.protocol.cohort import (
    AcceptedUpdates,
    Cohort,
    DirectEnrolment,
    accept_updates,
    cohort_root,
    form_cohort,
    round_root,
)
from galaxylearning.protocol.evidence import Equivocation, equivocations
from galaxylearning.protocol.hidden_set import HiddenSet
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.rounds import JobComputation
from galaxylearning.protocol.rows import rows_from_bytes
from galaxylearning.secagg.owner import public_seed
from galaxylearning.units import ZERO_DIGEST, Address, Digest, round_name

if TYPE_CHECKING:
    from galaxylearning.nodes.update_keys import UpdateKeys

_R = TypeVar("_R", SignedEnrolment, SignedUpdate)

MAX_GRAPH_BYTES = 64 << 20
MAX_TEST_BYTES = 1 << 30
LISTED_BYTES = 34
"""Of one digest in an encoded list."""


def job_context(site: Site, terms: Terms, kind: str) -> SealContext:
    """Context of what the requester seals before the job has a number."""
    return SealContext(
        site.ledger.chain_id, site.ledger.address_of("jobs"), 0, 0, kind, Address(terms.requester)
    )


def round_context(site: Site, job_id: int, round_index: int, kind: str, sender: Address) -> SealContext:
    """Context of what travels in a round."""
    return SealContext(
        site.ledger.chain_id, site.ledger.address_of("jobs"), job_id, round_index, kind, sender
    )


def share_kind(seat: int) -> str:
    """The kind of the envelope with the secret share for a seat, by its position in the terms."""
    return f"share-{seat}"


def mask_seed(site: Site, job_id: int, round_index: int, model: Digest) -> bytes:
    """The public seed of a round's masks."""
    return public_seed(
        chain_id=site.ledger.chain_id,
        contract=site.ledger.address_of("jobs"),
        job_id=job_id,
        round_index=round_index,
        model_digest=model,
    )


async def evaluator_keys(site: Site, terms: Terms) -> list[bytes]:
    """The public sealing keys of all evaluators, in the order of their seats.

    Raises:
        BlobMissing: one cannot be had.
        BlobRefused: one is too long.
    """
    return [
        await site.blobs.get(Digest(bytes.fromhex(seat.sealing_key_blob)), max_bytes=SEALING_KEY_BYTES)
        for seat in terms.evaluators
    ]


async def load_graph(site: Site, terms: Terms) -> ModelGraph:
    """The job's model graph, which anybody may read: it says what would run, not what was learnt.

    Raises:
        BlobMissing, GraphRefused: it cannot be had or is not acceptable.
    """
    return ModelGraph.from_bytes(await load_graph_bytes(site, terms))


async def load_graph_bytes(site: Site, terms: Terms) -> bytes:
    """The job's model graph as its requester wrote it, not looked into.

    Raises:
        BlobMissing: it cannot be had.
        BlobRefused: it is too long, or not what the terms name.
    """
    return await site.blobs.get(Digest(bytes.fromhex(terms.graph)), max_bytes=MAX_GRAPH_BYTES)


async def open_parcel(
    site: Site,
    digest: Digest,
    key: SealingKey,
    context: SealContext,
    *,
    plaintext_bytes: int,
    recipients: int,
) -> bytes:
    """Fetch and open a sealed blob whose plaintext has at most ``plaintext_bytes``."""
    limit = sealed_bytes(plaintext_bytes, recipients)
    blob = await site.blobs.get(digest, max_bytes=limit)
    return open_sealed(blob, key, context, max_bytes=plaintext_bytes)


async def open_job(site: Site, terms: Terms, job_id: int, key: SealingKey) -> JobComputation:
    """Open the initial model and the hidden test set with an evaluator's key.

    Raises:
        BlobMissing, Refused: something cannot be had, opened, or is not what the terms say.
    """
    graph = await load_graph(site, terms)
    seats = len(terms.evaluators)
    model = await open_parcel(
        site,
        Digest(bytes.fromhex(terms.model)),
        key,
        job_context(site, terms, "initial-model"),
        plaintext_bytes=weights_size(graph),
        recipients=seats,
    )
    _same(model, terms.model_digest, "initial model")
    test = await open_parcel(
        site,
        Digest(bytes.fromhex(terms.test_set)),
        key,
        job_context(site, terms, "test-set"),
        plaintext_bytes=MAX_TEST_BYTES,
        recipients=seats,
    )
    _same(test, terms.test_set_digest, "test set")
    rows = rows_from_bytes(test, n_rows=terms.test_rows)
    flat = FlatModel(graph, weights_from_bytes(graph, model, max_bytes=len(model)))
    # Both halves: what is wrong with a row would else show when stakes depend on it.
    losses = flat.per_sample_loss(*flat.initial(), (rows.inputs,), rows.labels)
    if not np.isfinite(losses).all():
        raise JobRefused("the initial model's loss on a row of the test set is not finite", where="test set")
    return JobComputation(terms, job_id, flat, HiddenSet.split(rows, seed=terms.seed))


def _same(data: bytes, digest: str, what: str) -> None:
    if blake3_digest(data).hex() != digest:
        raise BlobRefused("what was sealed is not what the terms say", where=what)


async def current_cohort(site: Site, board: Board, view: ChainView, terms: Terms, state: JobState) -> Cohort:
    """The cohort that follows from all enrolments so far, relayed or on chain, whose blobs are there."""
    candidates = (await board.read("enrolments", SignedEnrolment)).values()
    return await _cohort(site, view, terms, state, list(candidates), None, board.signers)


async def anchored_cohort(site: Site, board: Board, view: ChainView, terms: Terms, state: JobState) -> Cohort:
    """The cohort whose root is on chain.

    Raises:
        BlobMissing: no list of enrolments on the board gives the anchored root and size.
    """
    limit = _list_bytes(state.cohort_size)
    for listed in (await board.read("cohort", CohortList, max_bytes=limit)).values():
        if cohort_root(map(Digest, (*listed.enrolments, *listed.direct))) != state.cohort_root:
            continue
        candidates = await _fetch(board, "enrolments", SignedEnrolment, listed.enrolments)
        if candidates is None:
            continue
        direct = frozenset(Digest(entry) for entry in listed.direct)
        cohort = await _cohort(site, view, terms, state, list(candidates.values()), direct, board.signers)
        if cohort.root == state.cohort_root and cohort.size == state.cohort_size:
            return cohort
    raise BlobMissing("no list of enrolments gives the anchored root", where=f"job {state.job_id} cohort")


async def _cohort(
    site: Site,
    view: ChainView,
    terms: Terms,
    state: JobState,
    candidates: list[SignedEnrolment],
    anchored: frozenset[Digest] | None,
    known: Signers,
) -> Cohort:
    """The cohort of these candidates and the direct entries (those ``anchored``, where that is fixed)."""
    events = view.events_of(state.job_id)
    direct = [
        await _direct_enrolment(site, event.enrolment)
        for event in events
        if isinstance(event, ev.EnrolledDirectly)
        and (anchored is None or Digest(event.enrolment.struct_hash()) in anchored)
    ]
    return form_cohort(
        candidates,
        direct,
        terms=terms,
        domain=site.domain(),
        job_id=state.job_id,
        now=events[0].at + terms.windows.enrol_s,
        datasets=view.datasets_at_anchor(state.job_id),
        bonds={event.data_owner for event in events if isinstance(event, ev.BondDeposited)},
        known=known,
    )


async def _direct_enrolment(site: Site, enrolment: typed.Enrolment) -> DirectEnrolment:
    """An enrolment on chain with the blobs it names, as far as they are there."""
    key = await _blob_or_none(site, enrolment.sealing_key_digest, SEALING_KEY_BYTES)
    credential = None
    if enrolment.credential_digest != ZERO_DIGEST:
        data = await _blob_or_none(site, enrolment.credential_digest, MAX_SIGNED_BYTES)
        try:
            credential = None if data is None else decode(data, CredentialRecord, max_bytes=MAX_SIGNED_BYTES)
        except MessageRefused:
            credential = None
    return DirectEnrolment(enrolment, key, credential)


async def _blob_or_none(site: Site, digest: Digest, max_bytes: int) -> bytes | None:
    try:
        return await site.blobs.get(digest, max_bytes=max_bytes)
    except (BlobMissing, BlobRefused):
        return None


async def current_updates(
    site: Site,
    board: Board,
    view: ChainView,
    terms: Terms,
    state: JobState,
    cohort: Cohort,
    model: Digest,
    without: Collection[Digest] = (),
) -> AcceptedUpdates:
    """The updates that count in the round under way: signed, of this cohort and model, their blobs there.

    ``without`` are blobs that do not open.
    """
    return await _posted_updates(
        site, board, view, terms, state.job_id, state.round_index, cohort, model, without
    )


async def updates_left_out(
    site: Site,
    board: Board,
    view: ChainView,
    terms: Terms,
    anchor: ev.RoundAnchored,
    cohort: Cohort,
    accepted: AcceptedUpdates,
) -> tuple[Address, ...]:
    """Whose update would count in an anchored round by what is on the board now, and was not anchored."""
    found = await _posted_updates(
        site, board, view, terms, anchor.job_id, anchor.round_index, cohort, anchor.model_digest
    )
    counted = accepted.by_data_owner
    return tuple(one.data_owner for one in found.updates if one.data_owner not in counted)


async def _posted_updates(
    site: Site,
    board: Board,
    view: ChainView,
    terms: Terms,
    job_id: int,
    round_index: int,
    cohort: Cohort,
    model: Digest,
    without: Collection[Digest] = (),
) -> AcceptedUpdates:
    records = await board.read(f"round/{round_index}/updates", SignedUpdate)
    present = set(await site.blobs.list(board.topic(f"round/{round_index}/bodies"))) - set(without)
    candidates = [record for record in records.values() if record.update_digest in present]
    direct = [
        update for update in _direct_updates(view, job_id, round_index) if update.update_digest in present
    ]
    return _accepted(site, terms, job_id, round_index, cohort, model, candidates, direct, board.signers)


async def anchored_updates(
    site: Site,
    board: Board,
    view: ChainView,
    terms: Terms,
    anchor: ev.RoundAnchored,
    cohort: Cohort,
) -> AcceptedUpdates:
    """The updates whose root was anchored for a round.

    Raises:
        BlobMissing: no list of updates on the board gives the anchored root and count.
    """
    name = f"round/{anchor.round_index}"
    limit = _list_bytes(anchor.count)
    for listed in (await board.read(f"{name}/lists", RoundList, max_bytes=limit)).values():
        if round_root(map(Digest, (*listed.updates, *listed.direct))) != anchor.root:
            continue
        candidates = await _fetch(board, f"{name}/updates", SignedUpdate, listed.updates)
        if candidates is None:
            continue
        direct = [
            update
            for update in _direct_updates(view, anchor.job_id, anchor.round_index)
            if update.struct_hash() in listed.direct
        ]
        accepted = _accepted(
            site,
            terms,
            anchor.job_id,
            anchor.round_index,
            cohort,
            anchor.model_digest,
            list(candidates.values()),
            direct,
            board.signers,
        )
        if accepted.root == anchor.root and accepted.count == anchor.count:
            return accepted
    raise BlobMissing(
        "no list of updates gives the anchored root",
        where=f"job {anchor.job_id} {round_name(anchor.round_index)}",
    )


async def round_equivocations(
    site: Site, board: Board, view: ChainView, state: JobState, round_index: int
) -> tuple[Equivocation, ...]:
    """Who made two different updates of a round, on the board or on chain, with the proof."""
    relayed = await board.read(f"round/{round_index}/updates", SignedUpdate)
    direct = [
        (event.update, event.signature)
        for event in view.events_of(state.job_id)
        if isinstance(event, ev.UpdateSubmittedDirectly) and event.update.round_index == round_index
    ]
    return equivocations(
        relayed.values(),
        direct,
        domain=site.domain(),
        job_id=state.job_id,
        terms_digest=state.terms_digest,
    )


def _direct_updates(view: ChainView, job_id: int, round_index: int) -> list[typed.Update]:
    return [
        event.update
        for event in view.events_of(job_id)
        if isinstance(event, ev.UpdateSubmittedDirectly) and event.update.round_index == round_index
    ]


def _accepted(
    site: Site,
    terms: Terms,
    job_id: int,
    round_index: int,
    cohort: Cohort,
    model: Digest,
    candidates: list[SignedUpdate],
    direct: list[typed.Update],
    known: Signers,
) -> AcceptedUpdates:
    return accept_updates(
        candidates,
        direct,
        cohort=cohort.data_owners,
        domain=site.domain(),
        job_id=job_id,
        round_index=round_index,
        terms_digest=terms.digest,
        model_digest=model,
        known=known,
    )


def _list_bytes(entries: int) -> int:
    """How long a list of so many digests is at most: a longer one is not the anchored one."""
    return min(MAX_LIST_BYTES, MAX_SIGNED_BYTES + LISTED_BYTES * entries)


async def _fetch(
    board: Board, topic: str, kind: type[_R], digests: tuple[bytes, ...]
) -> dict[Digest, _R] | None:
    """The records with these digests, or None where one cannot be had."""
    known = await board.read(topic, kind)
    if any(Digest(digest) not in known for digest in digests):
        return None
    return {Digest(digest): known[Digest(digest)] for digest in digests}


async def open_bodies(
    keys: UpdateKeys, job: JobComputation, cohort: Cohort, accepted: AcceptedUpdates
) -> Mapping[Address, bytes | GalaxyError | None]:
    """The opened update of every member: its bytes, why it cannot be opened, or None where it sent none."""
    updates = accepted.by_data_owner
    found: dict[Address, bytes | GalaxyError | None] = {}
    for who in cohort.data_owners:
        if who not in updates:
            found[who] = None
            continue
        try:
            found[who] = await keys.open(job, job.round_index, who, Digest(updates[who].update.update_digest))
        except BlobDamaged:
            raise
        except Refused as refused:
            found[who] = refused
    return found
