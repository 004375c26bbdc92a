"""secp256k1 signatures over 32-byte digests, and the accounts behind them.

Knows nothing of what is signed: typed messages are hashed elsewhere. Recovery is strict, so that every
signature has exactly one form and a contract and this module accept the same ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from coincurve import PrivateKey, PublicKey

from galaxylearning.crypto.digest import checksummed, keccak
from galaxylearning.errors import MessageRefused
from galaxylearning.units import Address, Entropy

SIGNATURE_BYTES: Final = 65
PRIVATE_KEY_BYTES: Final = 32
CURVE_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


def new_private_key(*, entropy: Entropy) -> bytes:
    """A uniformly drawn private key, 32 bytes, in [1, n)."""
    while True:
        candidate = entropy(PRIVATE_KEY_BYTES)
        if 0 < int.from_bytes(candidate, "big") < CURVE_ORDER:
            return candidate


def _address_of_point(point: PublicKey) -> Address:
    uncompressed: bytes = point.format(compressed=False)
    return checksummed(keccak(uncompressed[1:])[-20:].hex())


def address_of(private_key: bytes) -> Address:
    """The checksummed account of a 32-byte private key.

    Raises:
        ValueError: ``private_key`` is not 32 bytes in [1, n).
    """
    return _address_of_point(_load(private_key).public_key)


def _load(private_key: bytes) -> PrivateKey:
    if len(private_key) != PRIVATE_KEY_BYTES:
        raise ValueError(f"a private key has {PRIVATE_KEY_BYTES} bytes, not {len(private_key)}")
    return PrivateKey(private_key)


def sign_digest(private_key: bytes, digest: bytes) -> bytes:
    """Sign a 32-byte digest deterministically: 65 bytes r || s || v, low s, v in {27, 28}.

    Raises:
        ValueError: the key or the digest has a wrong length, or the key is out of range.
    Source: RFC 6979; EIP-2 (low s).
    """
    if len(digest) != 32:
        raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
    signature: bytes = _load(private_key).sign_recoverable(digest, hasher=None)
    return signature[:64] + bytes([27 + signature[64]])


def recover_signer(digest: bytes, signature: bytes) -> Address:
    """The account whose key made ``signature`` (65 bytes r || s || v) over the 32-byte ``digest``.

    Accepts only what a strict contract accepts: v in {27, 28}, 0 < r < n, 0 < s <= n/2.

    Raises:
        MessageRefused: a wrong length, an out-of-range r, s or v, or no such point.
    Source: EIP-2; OpenZeppelin ECDSA.
    """
    if len(digest) != 32:
        raise MessageRefused(f"must have 32 bytes, not {len(digest)}", where="digest")
    if len(signature) != SIGNATURE_BYTES:
        raise MessageRefused(f"must have {SIGNATURE_BYTES} bytes, not {len(signature)}", where="signature")
    if signature[64] not in (27, 28):
        raise MessageRefused(f"v must be 27 or 28, not {signature[64]}", where="signature")
    if not 0 < int.from_bytes(signature[:32], "big") < CURVE_ORDER:
        raise MessageRefused("r must be between 1 and the curve order", where="signature")
    if not 0 < int.from_bytes(signature[32:64], "big") <= CURVE_ORDER // 2:
        raise MessageRefused("s must be between 1 and half the curve order", where="signature")
    return _recovered(bytes(digest), bytes(signature))


@lru_cache(maxsize=1 << 11)
def _recovered(digest: bytes, signature: bytes) -> Address:
    """Nodes look at the same records again and again; recovering a key is most of what that costs."""
    recoverable = signature[:64] + bytes([signature[64] - 27])
    try:
        point = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    except Exception as error:
        raise MessageRefused("no account can have made it", where="signature") from error
    return _address_of_point(point)
