"""Secret random integers by the million: AES-256-CTR keyed from a few bytes of entropy.

Statistical generators are predictable from their output; what hides data must not be. Nothing here is a
source of entropy: key and nonce come from the caller.

Source: NIST SP 800-38A (CTR); a fresh key for every stream, so that no counter block repeats under one.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from galaxylearning.units import Entropy

U64: TypeAlias = npt.NDArray[np.uint64]
I64: TypeAlias = npt.NDArray[np.int64]

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16
MAX_BOUND: Final = 1 << 62
_SEEDED_LABEL: Final = "galaxylearning 2026 seeded entropy for simulations v1"


class SecretStream:
    """An endless stream of secret 64-bit words from 48 bytes of ``entropy``, fresh for each stream."""

    __slots__ = ("_keystream",)

    def __init__(self, entropy: Entropy) -> None:
        key, nonce = entropy(KEY_BYTES), entropy(NONCE_BYTES)
        if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
            raise ValueError(f"entropy must give {KEY_BYTES} and {NONCE_BYTES} bytes")
        self._keystream = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()

    def words(self, count: int) -> U64:
        """The next ``count`` words, uint64[count], each value equally likely."""
        return np.frombuffer(self._keystream.update(bytes(8 * count)), dtype="<u8")

    def below(self, bound: int, count: int) -> I64:
        """``count`` integers of ``0..bound-1``, int64[count], each exactly equally likely.

        Words above the last whole multiple of ``bound`` are drawn again. ``bound`` is 1 to 2^62.
        """
        if not 1 <= bound <= MAX_BOUND:
            raise ValueError(f"bound must be from 1 to 2^62, not {bound}")
        limit = np.uint64(((1 << 64) // bound) * bound - 1)
        words = self.words(count).copy()
        while (bad := np.flatnonzero(words > limit)).size:
            words[bad] = self.words(bad.size)
        return (words % np.uint64(bound)).astype(np.int64)


def seeded_entropy(*numbers: int) -> Entropy:
    """Entropy that anybody with the same non-negative ``numbers`` can repeat: for simulations, where nobody
    is protected and runs must repeat. Never for real data.
    """
    material = b"".join(number.to_bytes(32, "big") for number in numbers)
    stream = blake3(material, derive_key_context=_SEEDED_LABEL)
    place = 0

    def entropy(count: int) -> bytes:
        nonlocal place
        found = stream.digest(length=count, seek=place)
        place += count
        return found

    return entropy
