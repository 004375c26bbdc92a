"""Who may enrol in a job: an allow-list, a credential, a bond; as the terms say."""

from __future__ import annotations

from collections.abc import Collection

from galaxylearning.crypto.digest import keccak
from galaxylearning.errors import MessageRefused
from galaxylearning.messages.records import CredentialRecord, recover_issuer
from galaxylearning.messages.terms import Terms
from galaxylearning.messages.typed import Domain
from galaxylearning.units import Address, Digest


def credential_scope(scope: str) -> Digest:
    """What an issuer signs for the scope a job's terms name: keccak-256 of its UTF-8, 32 bytes."""
    return Digest(keccak(scope.encode()))


def admission_refusal(
    terms: Terms,
    data_owner: Address,
    credential: CredentialRecord | None,
    *,
    domain: Domain,
    now: int,
    bonds: Collection[Address],
) -> str | None:
    """Why ``data_owner`` may not enrol, or None.

    Args:
        terms: of the job.
        data_owner: who wants to enrol.
        credential: what the enrolment carries; read only where the terms ask for one.
        domain: of GalaxyJobs; credentials are signed for it.
        now: chain time in Unix seconds; a credential is good before its expiry.
        bonds: identities whose bond is posted for this job.
    """
    if int(terms.price.bond) > 0 and data_owner not in bonds:
        return "no bond is posted"
    admission = terms.admission
    if admission.kind == "allow-list":
        return None if data_owner in admission.allowed else "not on the allow-list"
    if admission.kind == "credential":
        return _credential_refusal(terms, data_owner, credential, domain=domain, now=now)
    return None


def _credential_refusal(
    terms: Terms, data_owner: Address, credential: CredentialRecord | None, *, domain: Domain, now: int
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
        issuer = recover_issuer(credential, domain)
    except MessageRefused as refused:
        return f"the credential's signature is not valid: {refused}"
    return None if issuer in terms.admission.issuers else "the credential's issuer is not trusted"
