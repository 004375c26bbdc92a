"""Sealed envelopes: one body, readable by each named recipient and by nobody else, bound to its context.

A fresh content key is wrapped for every recipient with post-quantum hybrid HPKE; the body is encrypted
under it in chunks whose nonces carry a counter and a last-chunk flag, so that chunks can be neither
dropped, swapped nor added. The content key is committed to in the header: a sender cannot make two
recipients open two different plaintexts. Base mode: who sent it is shown by a signature over the
envelope's digest, which is somebody else's business, as are topics, blobs and policy.

Layout (big-endian)::

    magic "GLXSEAL1" | context digest 32 | key commitment 32 | plaintext length 8 | nonce prefix 7
    | recipients 4 | recipients x (key digest 32, ascending; wrapped content key 1168)
    | chunks of at most 1 MiB, each followed by its 16-byte tag

Source: RFC 9180 (HPKE); draft-connolly-cfrg-xwing-kem (X-Wing = ML-KEM-768 + X25519); Hoang, Reyhanitabar,
Rogaway, Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance" (STREAM);
Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key Commitment".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.errors import BlobRefused
from galaxylearning.units import Address, Digest, Entropy

CHUNK_BYTES: Final = 1 << 20
MAX_RECIPIENTS: Final = 10_000
PUBLIC_KEY_BYTES: Final = 1216
SEED_BYTES: Final = 96

_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_MAGIC: Final = b"GLXSEAL1"
_HEAD: Final = struct.Struct(">8s32s32sQ7sI")
_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_SEED_BYTES: Final = 64
_WRAPPED_BYTES: Final = 1120 + 32 + 16
_SLOT_BYTES: Final = 32 + _WRAPPED_BYTES
_TAG_BYTES: Final = 16
_MAX_CHUNKS: Final = 1 << 32
_COMMITMENT_LABEL: Final = "galaxylearning 2026 seal v1 key commitment"
_BODY_LABEL: Final = "galaxylearning 2026 seal v1 body key"
_CONTEXT_LABEL: Final = b"galaxylearning/seal/v1"
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_KIND: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class SealContext:
    """What an envelope is for. It opens under no other context.

    ``kind`` is a short name such as ``update`` or ``model``: lower-case letters, digits and hyphens.
    ``sender`` is the account that makes the envelope. A job's envelopes that belong to no round have
    ``round_index`` 0 and a kind of their own.

    Raises:
        BlobRefused: a field is out of range.
    """

    chain_id: int
    contract: Address
    job_id: int
    round_index: int
    kind: str
    sender: Address

    def __post_init__(self) -> None:
        for name, value, bits in (
            ("chain_id", self.chain_id, 256),
            ("job_id", self.job_id, 256),
            ("round_index", self.round_index, 32),
        ):
            if type(value) is not int or not 0 <= value < 1 << bits:
                raise BlobRefused(f"must be an integer in [0, 2^{bits})", where=f"context.{name}")
        for name, address in (("contract", self.contract), ("sender", self.sender)):
            if not isinstance(address, str) or _ADDRESS.fullmatch(address) is None:
                raise BlobRefused("must be 0x and 40 hex digits", where=f"context.{name}")
        if not isinstance(self.kind, str) or _KIND.fullmatch(self.kind) is None:
            raise BlobRefused("must be 1 to 64 of a-z, 0-9 and hyphen", where="context.kind")

    def canonical_bytes(self) -> bytes:
        """The one encoding of this context; different contexts never share it."""
        kind = self.kind.encode("ascii")
        return b"".join(
            (
                _CONTEXT_LABEL,
                self.chain_id.to_bytes(32, "big"),
                bytes.fromhex(self.contract[2:]),
                self.job_id.to_bytes(32, "big"),
                self.round_index.to_bytes(4, "big"),
                bytes.fromhex(self.sender[2:]),
                bytes([len(kind)]),
                kind,
            )
        )


class SealingKey:
    """A recipient's private key: ML-KEM-768 and X25519 from one 96-byte seed (64 + 32)."""

    __slots__ = ("_digest", "_private", "_public", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a sealing seed has {SEED_BYTES} bytes, not {len(seed)}")
        lattice = MLKEM768PrivateKey.from_seed_bytes(seed[:_MLKEM_SEED_BYTES])
        curve = X25519PrivateKey.from_private_bytes(seed[_MLKEM_SEED_BYTES:])
        self._seed = bytes(seed)
        self._private = hpke.MLKEM768X25519PrivateKey(lattice, curve)
        self._public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        self._digest = blake3_digest(self._public)

    @classmethod
    def generate(cls, *, entropy: Entropy) -> SealingKey:
        """A fresh key from 96 bytes of ``entropy``."""
        return cls(entropy(SEED_BYTES))

    @property
    def seed(self) -> bytes:
        """The 96 secret bytes the key is made from; for a keystore only."""
        return self._seed

    @property
    def public(self) -> bytes:
        """The 1,216-byte public key: ML-KEM-768 (1,184) then X25519 (32)."""
        return self._public

    @property
    def digest(self) -> Digest:
        """BLAKE3 of the public key: its name on the chain and in envelopes."""
        return self._digest

    def __repr__(self) -> str:
        return f"SealingKey(digest={self._digest.hex()})"

    def _unwrap(self, wrapped: memoryview, info: bytes) -> bytes:
        try:
            return _SUITE.decrypt(wrapped, self._private, info=info)
        except (InvalidTag, ValueError) as error:
            raise BlobRefused("the content key does not unwrap", where="recipient slot") from error


@lru_cache(maxsize=1 << 14)  # of more data owners than an envelope has room for
def is_public_key(public_key: bytes) -> bool:
    """Whether anything can be sealed to these bytes: 1,216 of them, reduced, and no point of small order.

    One key that is none spoils every envelope that names it.
    """
    try:
        _wrap(bytes(32), public_key, b"", where="sealing key")
    except BlobRefused:
        return False
    return True


def _wrap(content_key: bytes, public_key: bytes, info: bytes, *, where: str) -> bytes:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise BlobRefused(f"must have {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}", where=where)
    try:
        recipient = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public_key[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public_key[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(content_key, recipient, info=info)
    except ValueError as error:
        raise BlobRefused("is not a usable public key", where=where) from error


def _derive(label: str, content_key: bytes) -> bytes:
    return blake3(content_key, derive_key_context=label).digest()


def _nonce(prefix: bytes, counter: int, is_last: bool) -> bytes:
    return prefix + counter.to_bytes(4, "big") + (b"\x01" if is_last else b"\x00")


def _chunk_count(plaintext_bytes: int) -> int:
    return max(1, -(-plaintext_bytes // CHUNK_BYTES))


def sealed_bytes(plaintext_bytes: int, recipients: int) -> int:
    """Exact size in bytes of an envelope; for limits on what to fetch."""
    body = plaintext_bytes + _TAG_BYTES * _chunk_count(plaintext_bytes)
    return _HEAD.size + _SLOT_BYTES * recipients + body


def seal(
    plaintext: bytes | bytearray | memoryview,
    recipients: Sequence[bytes],
    context: SealContext,
    *,
    entropy: Entropy,
) -> bytes:
    """Seal ``plaintext`` so that each of ``recipients`` (1,216-byte public keys) can open it, in ``context``.

    A key named twice gets one slot. The content key and the nonce prefix come from ``entropy``; HPKE
    draws its encapsulation randomness inside the cryptography library, so equal inputs never give
    equal envelopes.

    Raises:
        BlobRefused: no recipient, more than 10,000 of them, or a key that is malformed.
    """
    info = context.canonical_bytes()
    slots = {}
    for index, public_key in enumerate(recipients):
        if index >= MAX_RECIPIENTS:
            raise BlobRefused(f"must be at most {MAX_RECIPIENTS}", where="recipients")
        slots[blake3_digest(public_key)] = (index, public_key)
    if not slots:
        raise BlobRefused("must be at least one", where="recipients")
    view = memoryview(plaintext).cast("B")
    chunks = _chunk_count(len(view))
    if chunks > _MAX_CHUNKS:
        raise BlobRefused(f"must be at most {_MAX_CHUNKS} MiB", where="plaintext")
    content_key = entropy(32)
    prefix = entropy(7)
    commitment = _derive(_COMMITMENT_LABEL, content_key)
    parts = [_HEAD.pack(_MAGIC, blake3_digest(info), commitment, len(view), prefix, len(slots))]
    for digest in sorted(slots):
        index, public_key = slots[digest]
        parts += (digest, _wrap(content_key, public_key, info, where=f"recipient {index}"))
    associated = blake3_digest(b"".join(parts))
    cipher = AESGCM(_derive(_BODY_LABEL, content_key))
    for counter in range(chunks):
        chunk = view[counter * CHUNK_BYTES : (counter + 1) * CHUNK_BYTES]
        parts.append(cipher.encrypt(_nonce(prefix, counter, counter == chunks - 1), chunk, associated))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Head:
    """What an envelope's header says, with every length checked."""

    commitment: bytes
    length: int
    prefix: bytes
    slots: memoryview
    body_at: int


def _read_head(view: memoryview, info: bytes, max_bytes: int) -> _Head:
    if len(view) < _HEAD.size:
        raise BlobRefused(f"{len(view)} bytes are too few for a sealed envelope", where="header")
    magic, context_digest, commitment, length, prefix, recipients = _HEAD.unpack_from(view)
    if magic != _MAGIC:
        raise BlobRefused("is not a sealed envelope of version 1", where="magic")
    if context_digest != blake3_digest(info):
        raise BlobRefused("was sealed for something else (job, round, kind or sender)", where="context")
    if length > max_bytes:
        raise BlobRefused(f"{length} bytes where at most {max_bytes} are allowed", where="plaintext length")
    if not 1 <= recipients <= MAX_RECIPIENTS:
        raise BlobRefused(f"must be 1 to {MAX_RECIPIENTS}, not {recipients}", where="recipients")
    if len(view) != sealed_bytes(length, recipients):
        raise BlobRefused(
            f"has {len(view)} bytes where its header promises {sealed_bytes(length, recipients)}",
            where="envelope",
        )
    body_at = _HEAD.size + _SLOT_BYTES * recipients
    return _Head(commitment, length, prefix, view[_HEAD.size : body_at], body_at)


def open_sealed(
    blob: bytes | bytearray | memoryview, key: SealingKey, context: SealContext, *, max_bytes: int
) -> bytes:
    """The plaintext of an envelope made for ``key`` in ``context``; at most ``max_bytes`` of it.

    Every length is checked before anything of that length is allocated, and nothing is returned unless
    every byte of the envelope is authentic.

    Raises:
        BlobRefused: malformed, altered, cut short, extended, for another context or other recipients, or
            larger than ``max_bytes``.
    """
    content_key = reveal_content_key(blob, key, context, max_bytes=max_bytes)
    return open_revealed(blob, content_key, context, max_bytes=max_bytes)


def is_sealed_to(
    blob: bytes | bytearray | memoryview, recipient: Digest, context: SealContext, *, max_bytes: int
) -> bool:
    """Whether an envelope's header names this key as a recipient, for ``context`` and at most ``max_bytes``.

    What is in it, and whether it opens at all, only that key can tell.
    """
    try:
        head = _read_head(memoryview(blob).cast("B"), context.canonical_bytes(), max_bytes)
        _find_slot(head.slots, recipient)
    except BlobRefused:
        return False
    return True


def reveal_content_key(
    blob: bytes | bytearray | memoryview, key: SealingKey, context: SealContext, *, max_bytes: int
) -> bytes:
    """The 32-byte content key of an envelope made for ``key``: whoever has it can open this envelope.

    The header commits to it, so that showing it proves what the envelope holds, and nothing else.

    Raises:
        BlobRefused: as :func:`open_sealed`, the body aside.
    """
    view = memoryview(blob).cast("B")
    info = context.canonical_bytes()
    head = _read_head(view, info, max_bytes)
    content_key = key._unwrap(_find_slot(head.slots, key.digest), info)
    _check_commitment(content_key, head)
    return content_key


def is_revealed(
    blob: bytes | bytearray | memoryview, content_key: bytes, context: SealContext, *, max_bytes: int
) -> bool:
    """Whether this is the content key that the envelope commits to.

    Raises:
        BlobRefused: the header is not that of an envelope for ``context``.
    """
    head = _read_head(memoryview(blob).cast("B"), context.canonical_bytes(), max_bytes)
    return _derive(_COMMITMENT_LABEL, content_key) == head.commitment


def open_revealed(
    blob: bytes | bytearray | memoryview, content_key: bytes, context: SealContext, *, max_bytes: int
) -> bytes:
    """The plaintext of an envelope whose content key was shown.

    Raises:
        BlobRefused: as :func:`open_sealed`; at ``content key`` where it is not the envelope's.
    """
    view = memoryview(blob).cast("B")
    head = _read_head(view, context.canonical_bytes(), max_bytes)
    _check_commitment(content_key, head)
    associated = blake3_digest(view[: head.body_at])
    cipher = AESGCM(_derive(_BODY_LABEL, content_key))
    chunks = _chunk_count(head.length)
    plaintext = []
    for counter in range(chunks):
        start = head.body_at + counter * (CHUNK_BYTES + _TAG_BYTES)
        chunk = view[start : start + CHUNK_BYTES + _TAG_BYTES]
        try:
            nonce = _nonce(head.prefix, counter, counter == chunks - 1)
            plaintext.append(cipher.decrypt(nonce, chunk, associated))
        except InvalidTag as error:
            raise BlobRefused("is not authentic", where=f"chunk {counter}") from error
    return plaintext[0] if chunks == 1 else b"".join(plaintext)


def _check_commitment(content_key: bytes, head: _Head) -> None:
    if len(content_key) != 32 or _derive(_COMMITMENT_LABEL, content_key) != head.commitment:
        raise BlobRefused("is not the one the header commits to", where="content key")


def _find_slot(slots: memoryview, key_digest: Digest) -> memoryview:
    """The wrapped content key for ``key_digest``; the digests must ascend strictly."""
    previous = b""
    found = None
    for start in range(0, len(slots), _SLOT_BYTES):
        digest = bytes(slots[start : start + 32])
        if digest <= previous:
            raise BlobRefused("must stand once each, in ascending order", where="recipients")
        if digest == key_digest:
            found = slots[start + 32 : start + _SLOT_BYTES]
        previous = digest
    if found is None:
        raise BlobRefused("this key is not among the recipients", where="recipients")
    return found
