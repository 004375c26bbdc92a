"""The two hash functions: BLAKE3 names blobs, keccak-256 is what the chain hashes with."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from blake3 import blake3
from eth_hash.auto import keccak as _keccak_backend

from galaxylearning.units import Address, Digest

_keccak: Callable[[bytes], bytes] = _keccak_backend


def blake3_digest(data: bytes | bytearray | memoryview) -> Digest:
    """BLAKE3-256 of ``data``: 32 bytes, the name of a blob.

    Source: J. O'Connor et al., BLAKE3 (2020).
    """
    return Digest(blake3(data).digest())


def keccak(data: bytes) -> bytes:
    """Keccak-256 of ``data`` with the original padding, as the EVM's KECCAK256: 32 bytes.

    Source: Ethereum Yellow Paper, appendix H.
    """
    return _keccak(data)


@lru_cache(maxsize=1 << 17)
def checksummed(body: str) -> Address:
    """The EIP-55 form of 40 lower-case hex digits. Source: EIP-55."""
    nibbles = keccak(body.encode("ascii")).hex()
    letters = (letter.upper() if int(nibbles[i], 16) >= 8 else letter for i, letter in enumerate(body))
    return Address("0x" + "".join(letters))
