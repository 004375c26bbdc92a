"""What is sealed and what is masked: envelopes, keys, signatures, shares, masked bodies, answers, updates."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from benchmarks.fuzz.documents import mutate_msgpack
from benchmarks.fuzz.messages import CONTRACT, KEYS, ME, digest
from benchmarks.fuzz.parts import join, mutate_parts, split
from benchmarks.fuzz.target import Target

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import (
    SealContext,
    SealingKey,
    is_public_key,
    open_revealed,
    open_sealed,
    reveal_content_key,
    seal,
)
from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.crypto.sign import recover_signer, sign_digest
from galaxylearning.errors import BlobRefused, MessageRefused, QuorumMissing, UpdateRefused
from galaxylearning.learning.quantise import decode_update, encode_update
from galaxylearning.messages import records as r
from galaxylearning.protocol.updates import decode_body, encode_body
from galaxylearning.secagg.fault import fault_of
from galaxylearning.secagg.member import answer_scalars, answer_sum, read_share
from galaxylearning.secagg.opener import check_body, open_scalars, open_sum
from galaxylearning.secagg.owner import Masked, mask_update
from galaxylearning.secagg.plan import MaskingPlan, plan_masking
from galaxylearning.secagg.questions import Signs, question_polynomials

CONTEXT: Final = SealContext(31337, CONTRACT, 7, 3, "update", ME)
MAX_PLAINTEXT: Final = 1 << 20
SEED: Final = bytes(range(32))
OWNERS: Final = 3
MEMBERS: Final = 4
PARAMETERS: Final = 300


@cache
def sealing_keys() -> tuple[SealingKey, ...]:
    """Three recipients."""
    entropy = seeded_entropy(17)
    return tuple(SealingKey.generate(entropy=entropy) for _ in range(3))


def _envelopes() -> list[bytes]:
    entropy = seeded_entropy(18)
    public = [key.public for key in sealing_keys()]
    plain = (b"", b"a sealed update", bytes(5000))
    return [seal(text, public[: i + 1], CONTEXT, entropy=entropy) for i, text in enumerate(plain)]


def _open(data: bytes) -> object:
    return open_sealed(data, sealing_keys()[0], CONTEXT, max_bytes=MAX_PLAINTEXT)


def _revealed_seeds() -> list[bytes]:
    envelopes = _envelopes()
    return [
        join((envelope, reveal_content_key(envelope, sealing_keys()[0], CONTEXT, max_bytes=MAX_PLAINTEXT)))
        for envelope in envelopes
    ]


def _open_revealed(data: bytes) -> object:
    envelope, key = split(data)
    return open_revealed(envelope, key, CONTEXT, max_bytes=MAX_PLAINTEXT)


def _recover(data: bytes) -> object:
    hashed, signature = split(data)
    return recover_signer(hashed, signature)


@cache
def plan() -> MaskingPlan:
    """300 parameters, 4 members, 1 of whom may collude and 1 lie."""
    return plan_masking(
        parameters=PARAMETERS,
        cohort=10,
        bits=13,
        max_weight=15,
        members=MEMBERS,
        threshold=1,
        faulty=1,
        minimum_sum=2,
        projections=2,
        twin_projections=0,
    )


QUESTIONS: Final = Signs(2, PARAMETERS, b"q" * 32)


@cache
def _masked() -> tuple[Masked, ...]:
    rng = np.random.default_rng(5)
    entropy = seeded_entropy(19)
    updates = rng.integers(-90, 91, (OWNERS, PARAMETERS)).astype(np.int32)
    return tuple(mask_update(plan(), SEED, update, entropy=entropy) for update in updates)


def _shares(member: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.stack([read_share(plan(), masked.shares[member]) for masked in _masked()])


def _scalars_seed() -> bytes:
    polynomials = question_polynomials(plan().ring, SEED, QUESTIONS)
    answers = [answer_scalars(plan(), polynomials, _shares(member)) for member in range(MEMBERS)]
    return join([*(masked.body for masked in _masked()), *answers])


def _open_scalars(data: bytes) -> object:
    parts = split(data)
    return open_scalars(plan(), QUESTIONS, parts[:OWNERS], dict(enumerate(parts[OWNERS:])))


WEIGHTS: Final = np.array([3, 3, 3], np.int64)


def _sum_seed() -> bytes:
    answers = [answer_sum(plan(), _shares(member), WEIGHTS) for member in range(MEMBERS)]
    return join([*(masked.body for masked in _masked()), *answers])


def _open_sum(data: bytes) -> object:
    parts = split(data)
    return open_sum(plan(), SEED, parts[:OWNERS], WEIGHTS, dict(enumerate(parts[OWNERS:])))


def _shown_share_seed() -> bytes:
    entropy = seeded_entropy(20)
    share = _masked()[0].shares[0]
    envelope = seal(share, [sealing_keys()[0].public], CONTEXT, entropy=entropy)
    key = reveal_content_key(envelope, sealing_keys()[0], CONTEXT, max_bytes=len(share))
    polynomials = question_polynomials(plan().ring, SEED, QUESTIONS)
    return join((envelope, key, answer_scalars(plan(), polynomials, _shares(0)[:1])))


def _find_fault(data: bytes) -> object:
    envelope, key, answer = split(data)
    polynomials = question_polynomials(plan().ring, SEED, QUESTIONS)
    return fault_of(
        plan(), envelope=envelope, content_key=key, context=CONTEXT, polynomials=polynomials, answer=answer
    )


def _bodies() -> list[bytes]:
    update = (np.arange(-5, 6, dtype=np.int32), np.arange(3, dtype=np.int32))
    return [encode_body(7, 3, ME, update, 13)]


def _read_body(data: bytes) -> object:
    return decode_body(data, job_id=7, round_index=3, data_owner=ME, sizes=(11, 3), bits=13)


def targets() -> list[Target]:
    """All of them."""
    refused = (UpdateRefused, QuorumMissing)
    hashed = blake3_digest(b"a message")
    signatures = [join((hashed, sign_digest(key, hashed))) for key in KEYS]
    masked = _masked()
    answers = [r.encode(r.AnswerBody(7, 3, 1, ME, split(_scalars_seed())[-1]))]
    masked_bodies = [r.encode(r.MaskedBody(7, 3, ME, digest(1), masked[0].shares[:1]))]
    return [
        Target("sealed envelope", _envelopes(), _open, (BlobRefused,), share=2.0),
        Target("revealed envelope", _revealed_seeds(), _open_revealed, (BlobRefused,), mutate_parts),
        Target("sealing key", [key.public for key in sealing_keys()], is_public_key, ()),
        Target("signature", signatures, _recover, (MessageRefused,), mutate_parts),
        Target("secret share", list(masked[0].shares), lambda d: read_share(plan(), d), (UpdateRefused,)),
        Target(
            "masked update", [one.body for one in masked], lambda d: check_body(plan(), d), (UpdateRefused,)
        ),
        Target("opened scalars", [_scalars_seed()], _open_scalars, refused, mutate_parts, share=2.0),
        Target("opened sum", [_sum_seed()], _open_sum, refused, mutate_parts, share=2.0),
        Target("shown share", [_shown_share_seed()], _find_fault, (BlobRefused,), mutate_parts),
        Target(
            "update",
            [encode_update(np.arange(-50, 50, dtype=np.int32), bits) for bits in (13, 32)],
            lambda d: (_attempted_update(d, 13), _attempted_update(d, 32)),
            (UpdateRefused,),
        ),
        Target("update body", _bodies(), _read_body, (UpdateRefused, MessageRefused), mutate_msgpack),
        Target(
            "answer body",
            answers,
            lambda d: r.decode(d, r.AnswerBody, max_bytes=1 << 16),
            (MessageRefused,),
            mutate_msgpack,
        ),
        Target(
            "masked body",
            masked_bodies,
            lambda d: r.decode(d, r.MaskedBody, max_bytes=1 << 16),
            (MessageRefused,),
            mutate_msgpack,
        ),
    ]


def _attempted_update(data: bytes, bits: int) -> object:
    """The update, where it has the length of one of these bits."""
    size = 100 * (2 if bits <= 16 else 4)
    return decode_update(data, 100, bits) if abs(len(data) - size) < 100 else None
