"""Signatures are Ethereum's, and recovery accepts exactly one form of each."""

from __future__ import annotations

import pytest
from eth_account import Account
from eth_keys.datatypes import PrivateKey

from galaxylearning.crypto.digest import keccak
from galaxylearning.crypto.sign import (
    CURVE_ORDER,
    address_of,
    new_private_key,
    recover_signer,
    sign_digest,
)
from galaxylearning.errors import MessageRefused

KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"  # the first account of anvil's well-known mnemonic
DIGEST = keccak(b"hello")


def _with_s(signature: bytes, s: int) -> bytes:
    return signature[:32] + s.to_bytes(32, "big") + signature[64:]


def test_the_address_of_a_published_key() -> None:
    assert address_of(KEY) == ADDRESS


def test_a_signature_recovers_to_its_signer() -> None:
    signature = sign_digest(KEY, DIGEST)
    assert len(signature) == 65
    assert signature[64] in (27, 28)
    assert int.from_bytes(signature[32:64], "big") <= CURVE_ORDER // 2
    assert recover_signer(DIGEST, signature) == ADDRESS


def test_signatures_are_those_of_eth_account_and_eth_keys() -> None:
    for i in range(20):
        digest = keccak(bytes([i]))
        signature = sign_digest(KEY, digest)
        assert signature == bytes(Account.unsafe_sign_hash(digest, KEY).signature)
        other = PrivateKey(KEY).sign_msg_hash(digest)
        assert signature[:64] == other.to_bytes()[:64]
        assert signature[64] == 27 + other.v


def test_the_zero_digest_can_be_signed() -> None:
    assert recover_signer(bytes(32), sign_digest(KEY, bytes(32))) == ADDRESS


def test_another_digest_gives_another_signer() -> None:
    assert recover_signer(keccak(b"other"), sign_digest(KEY, DIGEST)) != ADDRESS


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("empty", b""),
        ("short", sign_digest(KEY, DIGEST)[:64]),
        ("long", sign_digest(KEY, DIGEST) + b"\0"),
        ("v 0", sign_digest(KEY, DIGEST)[:64] + b"\0"),
        ("v 1", sign_digest(KEY, DIGEST)[:64] + b"\1"),
        ("v 29", sign_digest(KEY, DIGEST)[:64] + b"\x1d"),
        ("r 0", bytes(32) + sign_digest(KEY, DIGEST)[32:]),
        ("r = n", CURVE_ORDER.to_bytes(32, "big") + sign_digest(KEY, DIGEST)[32:]),
        ("r max", b"\xff" * 32 + sign_digest(KEY, DIGEST)[32:]),
        ("s 0", _with_s(sign_digest(KEY, DIGEST), 0)),
        ("s = n", _with_s(sign_digest(KEY, DIGEST), CURVE_ORDER)),
        ("s = n/2 + 1", _with_s(sign_digest(KEY, DIGEST), CURVE_ORDER // 2 + 1)),
        ("s max", _with_s(sign_digest(KEY, DIGEST), 2**256 - 1)),
    ],
)
def test_a_malformed_signature_is_refused(name: str, signature: bytes) -> None:
    with pytest.raises(MessageRefused, match="signature"):
        recover_signer(DIGEST, signature)


def test_the_malleable_twin_of_a_signature_is_refused() -> None:
    signature = sign_digest(KEY, DIGEST)
    high = CURVE_ORDER - int.from_bytes(signature[32:64], "big")
    twin = _with_s(signature, high)[:64] + bytes([27 + 28 - signature[64]])
    with pytest.raises(MessageRefused, match="half the curve order"):
        recover_signer(DIGEST, twin)


def test_an_r_that_is_no_point_is_refused() -> None:
    # x = 5 is not on secp256k1: 5^3 + 7 = 132 is not a square modulo p.
    with pytest.raises(MessageRefused, match="no account"):
        recover_signer(DIGEST, (5).to_bytes(32, "big") + sign_digest(KEY, DIGEST)[32:])


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)])
def test_a_digest_of_another_length_is_refused(digest: bytes) -> None:
    with pytest.raises(MessageRefused, match="digest"):
        recover_signer(digest, sign_digest(KEY, DIGEST))
    with pytest.raises(ValueError, match="32 bytes"):
        sign_digest(KEY, digest)


@pytest.mark.parametrize("key", [b"", KEY[:31], bytes(32), CURVE_ORDER.to_bytes(32, "big")])
def test_a_malformed_private_key_is_a_mistake(key: bytes) -> None:
    with pytest.raises(ValueError):
        sign_digest(key, DIGEST)
    with pytest.raises(ValueError):
        address_of(key)


def test_a_drawn_key_is_in_range() -> None:
    draws = iter([bytes(32), CURVE_ORDER.to_bytes(32, "big"), b"\xff" * 32, KEY])
    assert new_private_key(entropy=lambda count: next(draws)[:count]) == KEY
