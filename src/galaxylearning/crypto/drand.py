"""Public randomness from a drand network: a threshold of its members signs each round's number.

Nobody below the threshold can choose or foresee a round's value, and anybody can check it. Only the scheme
``bls-unchained-g1-rfc9380`` is read: 48-byte signatures on G1, a 96-byte public key on G2.

Source: drand, "Cryptography"; RFC 9380 (hashing to curves); BLS signatures, draft-irtf-cfrg-bls-signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from galaxylearning.errors import MessageRefused

SIGNATURE_BYTES: Final = 48
PUBLIC_KEY_BYTES: Final = 96
_SUITE: Final = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"


@dataclass(frozen=True, slots=True)
class DrandChain:
    """A drand network: its ``public_key`` (96 bytes, compressed), when round 1 came (Unix s), its period."""

    public_key: bytes
    genesis_s: int
    period_s: int

    def __post_init__(self) -> None:
        _public_point(self.public_key)

    def round_after(self, time_s: int) -> int:
        """The first round that comes later than ``time_s``."""
        return max(1, (time_s - self.genesis_s) // self.period_s + 2)

    def randomness(self, number: int, signature: bytes) -> bytes:
        """The 32 bytes of a round, from its signature.

        Raises:
            MessageRefused: not the network's signature of this round.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise MessageRefused(
                f"{len(signature)} bytes; exactly {SIGNATURE_BYTES} allowed", where="drand signature"
            )
        if not _is_signed(self.public_key, number, signature):
            raise MessageRefused(f"not the network's signature of round {number}", where="drand signature")
        return hashlib.sha256(signature).digest()


def _point(decompress: Any, is_in_group: Any, words: Any, what: str) -> Any:
    """A point that is in the group and is not its neutral element, from its compressed form."""
    from py_ecc import optimized_bls12_381

    curve: Any = optimized_bls12_381
    try:
        point = decompress(words)
    except (ValueError, AssertionError) as error:
        raise MessageRefused(f"not a point of the curve: {str(error)[:80]}", where=what) from error
    if curve.is_inf(point) or not is_in_group(point):
        raise MessageRefused("not a point of the group", where=what)
    return point


@lru_cache(maxsize=16)
def _public_point(key: bytes) -> Any:
    from py_ecc.bls import g2_primitives, point_compression

    if len(key) != PUBLIC_KEY_BYTES:
        raise MessageRefused(
            f"{len(key)} bytes; exactly {PUBLIC_KEY_BYTES} allowed", where="drand public key"
        )
    half = PUBLIC_KEY_BYTES // 2
    words: Any = int.from_bytes(key[:half]), int.from_bytes(key[half:])
    return _point(point_compression.decompress_G2, g2_primitives.subgroup_check, words, "drand public key")


@lru_cache(maxsize=1024)
def _is_signed(key: bytes, number: int, signature: bytes) -> bool:
    from py_ecc import optimized_bls12_381
    from py_ecc.bls import g2_primitives, hash_to_curve, point_compression

    curve: Any = optimized_bls12_381
    sha256: Any = hashlib.sha256
    word: Any = int.from_bytes(signature)
    try:
        signed = _point(
            point_compression.decompress_G1, g2_primitives.subgroup_check, word, "drand signature"
        )
    except MessageRefused:
        return False
    message = hashlib.sha256(number.to_bytes(8, "big")).digest()
    hashed = hash_to_curve.hash_to_G1(message, _SUITE, sha256)
    product = curve.pairing(_public_point(key), hashed, final_exponentiate=False) * curve.pairing(
        curve.neg(curve.G2), signed, final_exponentiate=False
    )
    return bool(curve.final_exponentiate(product) == curve.FQ12.one())
