"""Who is at fault for answers that fit no sharing, from a share that the accused member shows."""

from __future__ import annotations

import os

import numpy as np
import pytest

from galaxylearning.crypto.digest import checksummed
from galaxylearning.crypto.ring import pack, unpack
from galaxylearning.crypto.seal import SealContext, SealingKey, open_sealed, seal
from galaxylearning.errors import BlobRefused
from galaxylearning.secagg.fault import fault_of, is_certain, reveal_share
from galaxylearning.secagg.member import answer_scalars, read_share
from galaxylearning.secagg.opener import open_scalars
from galaxylearning.secagg.owner import Masked
from galaxylearning.secagg.questions import Signs, question_polynomials
from masked_rounds import Round, masked_round, small_plan, updates_of

PLAN = small_plan()
QUESTIONS = Signs(2, 300, b"q" * 32)
POLYNOMIALS = question_polynomials(PLAN.ring, bytes(range(32)), QUESTIONS)
KEY = SealingKey.generate(entropy=os.urandom)
CONTEXT = SealContext(1, checksummed("11" * 20), 1, 0, "share", checksummed("22" * 20))


def sealed(share: bytes) -> bytes:
    return seal(share, [KEY.public], CONTEXT, entropy=os.urandom)


def dealt() -> Round:
    return masked_round(PLAN, updates_of(PLAN, 3, np.random.default_rng(1)))


def verdict(envelope: bytes, answer: bytes, key: bytes | None = None) -> str:
    return fault_of(
        PLAN,
        envelope=envelope,
        content_key=reveal_share(PLAN, envelope, KEY, CONTEXT) if key is None else key,
        context=CONTEXT,
        polynomials=POLYNOMIALS,
        answer=answer,
    )


def test_a_bad_dealer_is_exposed_by_the_share_it_dealt() -> None:
    masked = dealt()
    bad = pack(PLAN.ring, np.ones((1, 2, 2048)))
    first = masked.masked[0]
    shares = (bad, *first.shares[1:])
    cheated = Round(PLAN, masked.updates, (Masked(first.body, shares), *masked.masked[1:]))
    answers = cheated.scalars(QUESTIONS, range(6))
    opened = open_scalars(PLAN, QUESTIONS, cheated.bodies, answers)
    assert opened.wrong == {0: (0,)}
    own = answers[0][: PLAN.scalars_bytes(1, 2)]
    assert verdict(sealed(shares[0]), own) == "dealer"


def test_a_member_that_lied_cannot_show_a_share_that_explains_it() -> None:
    share = dealt().masked[0].shares[0]
    honest = answer_scalars(PLAN, POLYNOMIALS, read_share(PLAN, share)[None])
    lie = pack(PLAN.ring, np.full((1, 2, 2), 7.0))
    assert lie != honest
    assert verdict(sealed(share), lie) == "member"
    assert verdict(sealed(share), lie, key=bytes(32)) == "member"
    assert verdict(sealed(share), honest) == "dealer"


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 10_240])
def test_an_envelope_without_a_share_is_the_dealers_fault(content: bytes) -> None:
    assert verdict(sealed(content), b"") == "dealer"


def test_an_envelope_whose_body_was_never_authentic_is_the_dealers_fault() -> None:
    envelope = bytearray(sealed(bytes(10_240)))
    envelope[-1] ^= 1
    assert verdict(bytes(envelope), b"") == "dealer"


def test_envelopes_of_another_context_prove_nothing() -> None:
    other = SealContext(1, CONTEXT.contract, 1, 1, "share", CONTEXT.sender)
    envelope = seal(bytes(10_240), [KEY.public], other, entropy=os.urandom)
    with pytest.raises(BlobRefused, match="context"):
        verdict(envelope, b"", key=bytes(32))


def test_an_accusation_is_certain_where_it_would_take_more_liars_than_may_collude() -> None:
    plan = small_plan()
    threshold = plan.threshold
    # Answers that fit another sharing: at most T of them are true, so the others are lies.
    for answers in range(threshold + 1, 16):
        for wrong in range((answers - threshold - 1) // 2 + 1):
            lies = answers - wrong - threshold
            assert is_certain(plan, answers=answers, wrong=wrong) == (lies > threshold)


def test_as_many_as_may_collude_can_have_an_honest_member_found_wrong_where_it_is_not_certain() -> None:
    masked = dealt()
    threshold = PLAN.threshold
    members = range(2 * threshold + 1)
    assert not is_certain(PLAN, answers=len(members), wrong=1)
    answers = masked.scalars(QUESTIONS, members)
    # They move their own answers onto another sharing, which agrees with the true one for T honest members.
    honest = list(members)[threshold:]
    framed, agreeing = honest[-1], honest[:-1]
    size = PLAN.scalars_bytes(1, QUESTIONS.count)
    for liar in list(members)[:threshold]:
        shift = np.zeros((1, 2, QUESTIONS.count))
        for index, field in enumerate(PLAN.ring.fields):
            factor = 1
            for point in agreeing:
                factor = factor * (liar - point) % field.prime
            shift[0, index] = factor
        words = unpack(PLAN.ring, answers[liar][:size], width=QUESTIONS.count, where="answer")
        moved = np.stack(
            [f.canonical(f.centred(words[:, i] + shift[:, i])) for i, f in enumerate(PLAN.ring.fields)],
            axis=1,
        )
        answers[liar] = pack(PLAN.ring, moved) + answers[liar][size:]
    opened = open_scalars(PLAN, QUESTIONS, masked.bodies, answers)
    assert opened.wrong == {framed: (0,)}


def test_a_shown_key_opens_its_own_envelope_only() -> None:
    one, two = sealed(b"one"), sealed(b"two")
    key = reveal_share(PLAN, one, KEY, CONTEXT)
    assert open_sealed(one, KEY, CONTEXT, max_bytes=3) == b"one"
    assert verdict(two, b"", key=key) == "member"
    stranger = SealingKey.generate(entropy=os.urandom)
    with pytest.raises(BlobRefused, match="recipients"):
        reveal_share(PLAN, one, stranger, CONTEXT)
