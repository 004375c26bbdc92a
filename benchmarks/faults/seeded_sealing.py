"""Sealing that follows from the seed.

HPKE draws its encapsulation inside the cryptography library, so no two runs would give the same envelopes,
and with their digests the order in which nodes look at them would differ. Here only the wrapping of an
envelope's content key is another: X25519 with an ephemeral key that follows from the content key, itself
drawn from the run's seeded entropy. Envelopes, their sizes, contexts, commitments and refusals are the real
ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from galaxylearning.crypto import seal
from galaxylearning.crypto.seal import PUBLIC_KEY_BYTES, SealingKey
from galaxylearning.errors import BlobRefused

CURVE_BYTES = 32
WRAPPED_BYTES = 1120 + 32 + 16
"""Of the real HPKE with ML-KEM-768 and X25519, so that every size stays what it is."""
_LABEL = "galaxylearning 2026 simulated wrapping v1"


def _cipher(shared: bytes, info: bytes) -> AESGCM:
    return AESGCM(blake3(shared + info, derive_key_context=_LABEL).digest())


def _wrap(content_key: bytes, public_key: bytes, info: bytes, *, where: str) -> bytes:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise BlobRefused(f"must have {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}", where=where)
    drawn = blake3(content_key + public_key + info, derive_key_context=_LABEL).digest()
    ephemeral = X25519PrivateKey.from_private_bytes(drawn)
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key[-CURVE_BYTES:]))
    sealed = _cipher(shared, info).encrypt(bytes(12), content_key, None)
    wrapped = ephemeral.public_key().public_bytes_raw() + sealed
    return wrapped + bytes(WRAPPED_BYTES - len(wrapped))


def _unwrap(key: SealingKey, wrapped: memoryview, info: bytes) -> bytes:
    curve = X25519PrivateKey.from_private_bytes(key.seed[-CURVE_BYTES:])
    try:
        shared = curve.exchange(X25519PublicKey.from_public_bytes(bytes(wrapped[:CURVE_BYTES])))
        sealed = bytes(wrapped[CURVE_BYTES : CURVE_BYTES + 32 + 16])
        return _cipher(shared, info).decrypt(bytes(12), sealed, None)
    except (InvalidTag, ValueError) as error:
        raise BlobRefused("the content key does not unwrap", where="recipient slot") from error


@contextmanager
def seeded_sealing() -> Iterator[None]:
    """While this lasts, equal entropy gives equal envelopes."""
    kept = seal._wrap, SealingKey._unwrap
    seal._wrap = _wrap
    SealingKey._unwrap = _unwrap  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        seal._wrap = kept[0]
        SealingKey._unwrap = kept[1]  # type: ignore[method-assign]
