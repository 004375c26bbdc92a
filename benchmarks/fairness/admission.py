"""Who takes part where credentials admit: the cohort's own rule, on real signatures.

Every data owner is an organisation that one issuer knows; it has credentials for as many accounts as it asks
for, all of them with its subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec

from galaxylearning.crypto.digest import blake3_digest, keccak
from galaxylearning.crypto.seal import SealingKey
from galaxylearning.crypto.sign import address_of, sign_digest
from galaxylearning.messages import typed
from galaxylearning.messages.records import (
    CredentialRecord,
    SignedEnrolment,
    credential_digest,
)
from galaxylearning.messages.terms import Admission, Terms
from galaxylearning.protocol.admission import credential_scope, subject_of
from galaxylearning.protocol.cohort import form_cohort
from galaxylearning.units import Address, Digest

SCOPE = "organisations"
SEALING_KEY = SealingKey(bytes(96)).public
DOMAIN = typed.Domain("GalaxyJobs", "1", 31337, address_of(keccak(b"the contract")))
NOW = 1_800_000_000
LATER = NOW + 3600


@cache
def _key(name: str) -> bytes:
    return keccak(name.encode())


def admitted(terms: Terms, played_by: Sequence[int]) -> tuple[int, ...]:
    """Which identities (positions in ``played_by``, who is behind each) are of the cohort."""
    trusting = msgspec.structs.replace(
        terms, admission=Admission("credential", issuers=(address_of(_key("issuer")),), scope=SCOPE)
    )
    records = [_enrolment(trusting, position, owner) for position, owner in enumerate(played_by)]
    cohort = form_cohort(
        records,
        [],
        terms=trusting,
        domain=DOMAIN,
        job_id=1,
        now=NOW,
        datasets={Digest(record.dataset_id): Address(record.data_owner) for record in records},
    )
    members = frozenset(cohort.data_owners)
    return tuple(i for i, record in enumerate(records) if record.data_owner in members)


def _enrolment(terms: Terms, position: int, owner: int) -> SignedEnrolment:
    key = _key(f"identity {position}")
    subject = subject_of(f"organisation {owner}", SCOPE, salt=_key("salt"))
    voucher = typed.Credential(credential_scope(SCOPE), subject, address_of(key), LATER)
    credential = CredentialRecord.from_message(
        voucher, signature=sign_digest(_key("issuer"), voucher.digest(DOMAIN))
    )
    message = typed.Enrolment(
        job_id=1,
        terms_digest=terms.digest,
        data_owner=address_of(key),
        dataset_id=Digest(_key(f"data set {position}")),
        sealing_key_digest=blake3_digest(SEALING_KEY),
        credential_digest=credential_digest(credential),
    )
    return SignedEnrolment.from_message(
        message,
        sealing_key=SEALING_KEY,
        credential=credential,
        signature=sign_digest(key, message.digest(DOMAIN)),
    )
