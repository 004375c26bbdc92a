"""Both hashes against their published vectors."""

from __future__ import annotations

from galaxylearning.crypto.digest import blake3_digest, keccak


def test_blake3_vectors() -> None:
    # Source: BLAKE3 test_vectors.json (input byte i is i mod 251), input lengths 0, 1 and 1025.
    expected = {
        0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
        1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    }
    for length, digest in expected.items():
        assert blake3_digest(bytes(i % 251 for i in range(length))).hex() == digest


def test_keccak_vectors() -> None:
    # Source: Ethereum's hash of no code, and the selector of ERC-20's transfer.
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak(b"transfer(address,uint256)")[:4].hex() == "a9059cbb"


def test_any_buffer_has_the_digest_of_its_bytes() -> None:
    assert blake3_digest(memoryview(b"abc")) == blake3_digest(bytearray(b"abc")) == blake3_digest(b"abc")
    assert blake3_digest(b"abc") != blake3_digest(b"abd")
