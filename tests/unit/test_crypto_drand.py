"""Rounds of a drand network: a published round is accepted, and nothing else."""

from __future__ import annotations

import pytest

from galaxylearning.crypto.drand import DrandChain
from galaxylearning.errors import MessageRefused

# Public facts of the network "quicknet": its key, and its round 1000.
KEY = bytes.fromhex(
    "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc"
    "22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
)
SIGNATURE = bytes.fromhex(
    "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
)
RANDOMNESS = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd"
QUICKNET = DrandChain(KEY, 1_692_803_367, 3)


def test_a_published_round_is_accepted() -> None:
    assert QUICKNET.randomness(1000, SIGNATURE).hex() == RANDOMNESS


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data) ^ (1 << bit)).to_bytes(len(data))


@pytest.mark.parametrize(
    ("number", "signature"),
    [
        (999, SIGNATURE),
        (1001, SIGNATURE),
        (1000, flipped(SIGNATURE, 0)),
        (1000, flipped(SIGNATURE, 381)),
        (1000, bytes(48)),
        (1000, b"\xc0" + bytes(47)),
        (1000, b"\xff" * 48),
        (1000, SIGNATURE[:-1]),
        (1000, SIGNATURE + b"\0"),
        (1000, b""),
    ],
)
def test_what_the_network_did_not_sign_is_refused(number: int, signature: bytes) -> None:
    with pytest.raises(MessageRefused, match="drand signature"):
        QUICKNET.randomness(number, signature)


@pytest.mark.parametrize("key", [b"", KEY[:-1], bytes(96), b"\xff" * 96, b"\xc0" + bytes(95)])
def test_a_key_that_is_no_point_is_refused(key: bytes) -> None:
    with pytest.raises(MessageRefused, match="drand public key"):
        DrandChain(key, 0, 3)


def test_the_round_after_a_moment_comes_later() -> None:
    for moment in (0, 1_692_803_366, 1_692_803_367, 1_692_803_369, 1_692_803_370, 1_800_000_001):
        number = QUICKNET.round_after(moment)
        comes_at = QUICKNET.genesis_s + (number - 1) * QUICKNET.period_s
        assert comes_at > moment
        assert number == 1 or comes_at - QUICKNET.period_s <= moment
