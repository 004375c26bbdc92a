"""What forfeits a bond: two different updates of one round, from one model, by one data owner.

Nothing else does. This proves itself to the contract, from the data owner's own signatures; what statistics
say of an update (a twin, a free rider) is never certain, and costs its pay only (ADR 0021).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from galaxylearning.errors import MessageRefused
from galaxylearning.messages import typed
from galaxylearning.messages.fields import address_key
from galaxylearning.messages.records import SignedUpdate, verify
from galaxylearning.units import ZERO_DIGEST, Address, Digest


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two updates that differ in their digest only, and the data owner's signatures, 65 bytes each.

    The signature of an update that was submitted on chain is empty where it was submitted without one: the
    contract remembers each data owner's last.
    """

    update: typed.Update
    signature: bytes
    other_digest: Digest
    other_signature: bytes


def equivocations(
    relayed: Iterable[SignedUpdate],
    direct: Iterable[tuple[typed.Update, bytes]] = (),
    *,
    domain: typed.Domain,
    job_id: int,
    terms_digest: Digest,
) -> tuple[Equivocation, ...]:
    """At most one equivocation of each data owner in these updates, by ascending address.

    Whether their bodies can be had does not matter here: to have signed both is the offence.

    Args:
        relayed: records; those of another job or with a wrong signature say nothing.
        direct: what the chain holds, with its signature (empty where the data owner submitted it itself).
        domain: of GalaxyJobs.
        job_id: the job's number.
        terms_digest: of the job.
    """
    said: dict[typed.Update, list[tuple[typed.Update, bytes, SignedUpdate | None]]] = {}
    for record in relayed:
        update: typed.Update = record.message
        said.setdefault(_common(update), []).append((update, record.signature, record))
    for update, signature in direct:
        said.setdefault(_common(update), []).append((update, signature, None))
    found: dict[Address, Equivocation] = {}
    for common, entries in said.items():
        is_here = (common.job_id, common.terms_digest) == (job_id, terms_digest)
        if not is_here or common.data_owner in found:
            continue
        signatures: dict[Digest, bytes] = {}
        if len({update.update_digest for update, _, _ in entries}) > 1:
            for update, signature, claimed in entries:
                if claimed is None or _is_signed(claimed, domain):
                    known = signatures.get(update.update_digest)
                    signatures[update.update_digest] = known or signature
        if len(signatures) > 1:
            # Signed ones first: of those without a signature the contract may have seen a later one.
            first, second = sorted(signatures, key=lambda digest: (not signatures[digest], digest))[:2]
            one = replace(common, update_digest=first)
            found[one.data_owner] = Equivocation(one, signatures[first], second, signatures[second])
    return tuple(found[who] for who in sorted(found, key=address_key))


def _common(update: typed.Update) -> typed.Update:
    """What two updates must share to contradict each other: all but the digest."""
    return replace(update, update_digest=ZERO_DIGEST)


def _is_signed(record: SignedUpdate, domain: typed.Domain) -> bool:
    try:
        verify(record, domain)
    except MessageRefused:
        return False
    return True
