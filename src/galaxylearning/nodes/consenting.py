"""A data owner's consent: which job its journal says it consented to."""

from __future__ import annotations

from galaxylearning.errors import JobRefused, MessageRefused
from galaxylearning.messages.records import MAX_SIGNED_BYTES, SignedEnrolment, decode, verify
from galaxylearning.nodes.site import Site
from galaxylearning.protocol.machine import JobState


def kept_enrolment(site: Site, state: JobState) -> bytes | None:
    """The enrolment that the journal holds for a job, or None; its steps go by the number of a job alone.

    Raises:
        JobRefused: it is for another job of this number: under other terms, or of another chain or contract.
    """
    kept = site.journal.lookup(f"job/{state.job_id}/enrolment")
    if kept is None:
        return None
    enrolment = decode(kept, SignedEnrolment, max_bytes=MAX_SIGNED_BYTES)
    try:
        verify(enrolment, site.domain())
        is_this = (enrolment.job_id, enrolment.terms_digest) == (state.job_id, state.terms_digest)
    except MessageRefused:
        is_this = False
    if not is_this:
        raise JobRefused(
            "the journal holds a consent to another job of this number, on another chain or contract or under"
            " other terms; give each deployment a home of its own (--home)",
            where=f"job {state.job_id}",
        )
    return kept
