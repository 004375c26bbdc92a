"""What a data owner's node makes sure of before it consents to a job, and which job it consented to."""

from __future__ import annotations

from galaxylearning.crypto.seal import sealed_bytes
from galaxylearning.errors import JobRefused, MessageRefused
from galaxylearning.messages.fields import DIGEST_BYTES
from galaxylearning.messages.records import MAX_SIGNED_BYTES, SignedEnrolment, decode, verify
from galaxylearning.messages.terms import Terms
from galaxylearning.nodes.asked import RECORD_BYTES
from galaxylearning.nodes.site import Site
from galaxylearning.ports import MAX_STEP_BYTES, GraphFacts
from galaxylearning.protocol.machine import JobState
from galaxylearning.protocol.masking import masking_plan
from galaxylearning.protocol.updates import body_limit, quantizer


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


def require_feasible(terms: Terms, facts: GraphFacts) -> None:
    """Refuse a job whose updates could not be made as planned or kept, before anything is trained for it.

    Raises:
        ConfigRefused: the plan's range or noise would not hold.
        JobRefused: an update has more bytes than a journal keeps; both numbers are named.
    """
    parameters = facts.cost.parameters
    quantizer(terms.plan, parameters)
    if terms.privacy == "masked":
        update_bytes = masking_plan(terms, parameters).sent_bytes + RECORD_BYTES
    else:
        body_bytes = body_limit((parameters, facts.buffers), terms.plan.bits)
        update_bytes = sealed_bytes(body_bytes, len(terms.evaluators))
    most = MAX_STEP_BYTES - DIGEST_BYTES
    if update_bytes > most:
        raise JobRefused(f"an update would have {update_bytes} bytes; a journal keeps {most}", where="model")
