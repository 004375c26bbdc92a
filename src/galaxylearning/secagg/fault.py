"""Who is at fault when a member's answers fit no sharing: the member, or the dealer of the share.

A member whose answers about one owner were found wrong may show the content key of the envelope that its
share came in. Everybody can then open that envelope, and see whether the answers follow from what is in it.
An honest member's do, so whoever can show nothing, or something else, lied.

The key shows this one share of one owner's secret, and nothing else. With T others it would open the owner's
update, so an honest member shows it only where T members cannot have had it found wrong by lying:
``is_certain``. Then the owner dealt shares that do not belong together.
"""

from __future__ import annotations

from typing import Literal

from galaxylearning.crypto.ring import F64
from galaxylearning.crypto.seal import SealContext, SealingKey, open_revealed, reveal_content_key
from galaxylearning.errors import BlobRefused, UpdateRefused
from galaxylearning.secagg.member import answer_scalars, read_share
from galaxylearning.secagg.plan import MaskingPlan


def is_certain(plan: MaskingPlan, *, answers: int, wrong: int) -> bool:
    """Whether more than T members would have to lie for an honest one to be among the ``wrong``.

    Of ``answers`` about an honest owner, all but ``wrong`` fit another sharing than the owner's. Two sharings
    agree in at most T answers, so at least ``answers - wrong - T`` of those that fit are lies.
    """
    return answers - wrong - plan.threshold > plan.threshold


def reveal_share(plan: MaskingPlan, envelope: bytes, key: SealingKey, context: SealContext) -> bytes:
    """The accused member's evidence: the 32-byte content key of the envelope with its share.

    Raises:
        BlobRefused: no such key can be had from the envelope. That cannot be proved to anybody: a member
            without a share says so in its answer instead.
    """
    return reveal_content_key(envelope, key, context, max_bytes=plan.share_bytes)


def fault_of(
    plan: MaskingPlan,
    *,
    envelope: bytes,
    content_key: bytes,
    context: SealContext,
    polynomials: F64,
    answer: bytes,
) -> Literal["dealer", "member"]:
    """Who is at fault.

    ``dealer``: the envelope holds no share, or one that explains the member's ``answer`` about this owner
    (``plan.scalars_bytes(1, k)`` bytes) to the questions with ``polynomials`` f64[k, 2, N]; as the other
    members' answers do not fit it, the owner dealt shares that do not belong together. ``member``: the
    answer does not follow from the share, or the key is not the envelope's.

    The envelope must be the one that the owner signed for this member; its digest is for the caller to check.

    Raises:
        BlobRefused: the envelope is malformed or of another context, so that it proves nothing.
    """
    try:
        plaintext = open_revealed(envelope, content_key, context, max_bytes=plan.share_bytes)
    except BlobRefused as error:
        if error.where == "content key":
            return "member"
        if error.where is not None and error.where.startswith("chunk"):
            return "dealer"
        raise
    try:
        share = read_share(plan, plaintext)
    except UpdateRefused:
        return "dealer"
    return "dealer" if answer_scalars(plan, polynomials, share[None]) == answer else "member"
