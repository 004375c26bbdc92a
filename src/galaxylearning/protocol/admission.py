"""Who may enrol in a job: an allow-list, a credential, a bond; as the terms say.

A credential says more than that an account is trusted: it names, by the issuer's pseudonym, the organisation
behind it. So accounts can be counted as what they are, one organisation, without anybody learning which.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeAlias

from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import MessageRefused
from galaxylearning.messages.records import CredentialRecord, Signers, recover_issuer
from galaxylearning.messages.terms import Terms
from galaxylearning.messages.typed import Domain
from galaxylearning.units import Address, Digest

SALT_BYTES: Final = 32

Organisation: TypeAlias = tuple[Address, Digest]
"""Who is behind an account: the issuer that knows it, and the subject by which that issuer calls it."""


def credential_scope(scope: str) -> Digest:
    """What an issuer signs for the scope a job's terms name: keccak-256 of its UTF-8, 32 bytes."""
    return Digest(keccak(scope.encode()))


def subject_of(organisation: str, scope: str, *, salt: bytes) -> Digest:
    """An issuer's pseudonym of an organisation, 32 bytes, another in every scope.

    keccak-256 of the salt, the scope's digest and the organisation's: nobody finds out whose it is without
    the salt. ``organisation`` is the issuer's own name of it, the same text each time.

    Raises:
        ValueError: a salt of other than 32 bytes.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"salt has {len(salt)} bytes; {SALT_BYTES} allowed")
    return Digest(keccak(salt + credential_scope(scope) + keccak(organisation.encode())))


def admission_refusal(
    terms: Terms,
    data_owner: Address,
    credential: CredentialRecord | None,
    *,
    domain: Domain,
    now: int,
    bonds: Collection[Address],
    known: Signers | None = None,
) -> str | None:
    """Why ``data_owner`` may not enrol, or None.

    Args:
        terms: of the job.
        data_owner: who wants to enrol.
        credential: what the enrolment carries; read only where the terms ask for one.
        domain: of GalaxyJobs; credentials are signed for it.
        now: chain time in Unix seconds; a credential is good before its expiry.
        bonds: identities whose bond is posted for this job.
        known: who signed which credentials; what is found out is added.
    """
    if int(terms.price.bond) > 0 and data_owner not in bonds:
        return "no bond is posted"
    admission = terms.admission
    if admission.kind == "allow-list":
        return None if data_owner in admission.allowed else "not on the allow-list"
    if admission.kind == "credential":
        return _credential_refusal(terms, data_owner, credential, domain=domain, now=now, known=known)
    return None


def organisation_of(
    terms: Terms, credential: CredentialRecord | None, domain: Domain, known: Signers | None = None
) -> Organisation | None:
    """Whose account an admitted credential speaks of; None where the terms do not ask for credentials."""
    if terms.admission.kind != "credential" or credential is None:
        return None
    return recover_issuer(credential, domain, known), Digest(credential.subject)


def _credential_refusal(
    terms: Terms,
    data_owner: Address,
    credential: CredentialRecord | None,
    *,
    domain: Domain,
    now: int,
    known: Signers | None,
) -> str | None:
    if credential is None:
        return "a credential is missing"
    if credential.data_owner != data_owner:
        return "the credential is another data owner's"
    if credential.scope != credential_scope(terms.admission.scope):
        return "the credential is for another scope"
    if credential.expires_at <= now:
        return "the credential has expired"
    try:
        issuer = recover_issuer(credential, domain, known)
    except MessageRefused as refused:
        return f"the credential's signature is not valid: {refused}"
    return None if issuer in terms.admission.issuers else "the credential's issuer is not trusted"
