"""Envelopes open for their recipients in their context, and say why where they do not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives import hpke

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import (
    CHUNK_BYTES,
    MAX_RECIPIENTS,
    PUBLIC_KEY_BYTES,
    SEED_BYTES,
    SealContext,
    SealingKey,
    is_public_key,
    is_revealed,
    is_sealed_to,
    open_revealed,
    open_sealed,
    reveal_content_key,
    seal,
    sealed_bytes,
)
from galaxylearning.errors import BlobRefused
from galaxylearning.units import Address

CONTRACT = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
SENDER = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
CONTEXT = SealContext(31337, CONTRACT, 7, 3, "update", SENDER)


def _counting(label: bytes) -> Callable[[int], bytes]:
    """Bytes that never repeat within a test, and are the same in every run."""
    state = [0]

    def draw(count: int) -> bytes:
        state[0] += 1
        return hashlib.shake_256(label + state[0].to_bytes(8, "big")).digest(count)

    return draw


ENTROPY = _counting(b"seal")
KEYS = [SealingKey.generate(entropy=ENTROPY) for _ in range(3)]
PUBLIC = [key.public for key in KEYS]


@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_every_recipient_opens_what_was_sealed(size: int) -> None:
    plaintext = ENTROPY(size)
    blob = seal(plaintext, PUBLIC, CONTEXT, entropy=ENTROPY)
    assert len(blob) == sealed_bytes(size, 3)
    for key in KEYS:
        assert open_sealed(blob, key, CONTEXT, max_bytes=size) == plaintext


def test_a_content_key_that_was_shown_opens_this_envelope_and_no_other() -> None:
    blob, other = (seal(b"the answer", PUBLIC[:1], CONTEXT, entropy=ENTROPY) for _ in range(2))
    key = reveal_content_key(blob, KEYS[0], CONTEXT, max_bytes=10)
    assert is_revealed(blob, key, CONTEXT, max_bytes=10)
    assert open_revealed(blob, key, CONTEXT, max_bytes=10) == b"the answer"
    assert not is_revealed(other, key, CONTEXT, max_bytes=10)
    assert not is_revealed(blob, b"", CONTEXT, max_bytes=10)
    for wrong in (b"", key[:-1], bytes(32)):
        with pytest.raises(BlobRefused, match="content key"):
            open_revealed(blob, wrong, CONTEXT, max_bytes=10)
    with pytest.raises(BlobRefused, match="plaintext length"):
        is_revealed(blob, key, CONTEXT, max_bytes=9)


def test_anybody_sees_whom_an_envelope_is_for() -> None:
    blob = seal(b"model", PUBLIC[:2], CONTEXT, entropy=ENTROPY)
    other = dataclasses.replace(CONTEXT, kind="release")
    assert [is_sealed_to(blob, key.digest, CONTEXT, max_bytes=5) for key in KEYS] == [True, True, False]
    assert not is_sealed_to(blob, KEYS[0].digest, other, max_bytes=5)
    assert not is_sealed_to(blob, KEYS[0].digest, CONTEXT, max_bytes=4)
    assert not is_sealed_to(blob[:-1], KEYS[0].digest, CONTEXT, max_bytes=5)
    assert not is_sealed_to(b"", KEYS[0].digest, CONTEXT, max_bytes=5)


def test_the_plaintext_is_not_in_the_envelope() -> None:
    plaintext = b"a patient's record" * 10
    assert b"patient" not in seal(plaintext, PUBLIC, CONTEXT, entropy=ENTROPY)


def test_two_envelopes_of_one_plaintext_differ() -> None:
    same = lambda count: bytes(range(count))  # noqa: E731 -- even with a broken source of entropy
    assert seal(b"x", PUBLIC, CONTEXT, entropy=same) != seal(b"x", PUBLIC, CONTEXT, entropy=same)


def test_a_key_named_twice_has_one_slot() -> None:
    blob = seal(b"x", [PUBLIC[0], PUBLIC[0], PUBLIC[1]], CONTEXT, entropy=ENTROPY)
    assert len(blob) == sealed_bytes(1, 2)
    assert open_sealed(blob, KEYS[0], CONTEXT, max_bytes=1) == b"x"


def test_nobody_else_opens_it() -> None:
    blob = seal(b"x", PUBLIC[:2], CONTEXT, entropy=ENTROPY)
    with pytest.raises(BlobRefused, match="not among the recipients"):
        open_sealed(blob, KEYS[2], CONTEXT, max_bytes=1)


@pytest.mark.parametrize(
    "other",
    [
        SealContext(1, CONTRACT, 7, 3, "update", SENDER),
        SealContext(31337, SENDER, 7, 3, "update", SENDER),
        SealContext(31337, CONTRACT, 8, 3, "update", SENDER),
        SealContext(31337, CONTRACT, 7, 4, "update", SENDER),
        SealContext(31337, CONTRACT, 7, 3, "model", SENDER),
        SealContext(31337, CONTRACT, 7, 3, "update", CONTRACT),
    ],
)
def test_it_opens_in_no_other_context(other: SealContext) -> None:
    blob = seal(b"x", PUBLIC, CONTEXT, entropy=ENTROPY)
    with pytest.raises(BlobRefused, match="sealed for something else"):
        open_sealed(blob, KEYS[0], other, max_bytes=1)


def test_the_context_is_bound_by_cryptography_and_not_by_the_header_alone() -> None:
    other = SealContext(31337, CONTRACT, 8, 3, "update", SENDER)
    blob = bytearray(seal(b"x", PUBLIC, CONTEXT, entropy=ENTROPY))
    blob[8:40] = blake3_digest(other.canonical_bytes())
    with pytest.raises(BlobRefused, match="does not unwrap"):
        open_sealed(blob, KEYS[0], other, max_bytes=1)


def test_the_letter_case_of_an_address_does_not_matter() -> None:
    lower = SealContext(31337, Address(CONTRACT.lower()), 7, 3, "update", Address(SENDER.lower()))
    assert lower.canonical_bytes() == CONTEXT.canonical_bytes()


def test_the_limit_is_on_the_plaintext() -> None:
    blob = seal(b"12345", PUBLIC, CONTEXT, entropy=ENTROPY)
    assert open_sealed(blob, KEYS[0], CONTEXT, max_bytes=5) == b"12345"
    with pytest.raises(BlobRefused, match="5 bytes where at most 4"):
        open_sealed(blob, KEYS[0], CONTEXT, max_bytes=4)


def test_no_recipient_and_too_many_are_refused() -> None:
    with pytest.raises(BlobRefused, match="at least one"):
        seal(b"x", [], CONTEXT, entropy=ENTROPY)
    with pytest.raises(BlobRefused, match="at most 10000"):
        seal(b"x", [b"%05d" % i for i in range(MAX_RECIPIENTS + 1)], CONTEXT, entropy=ENTROPY)


@pytest.mark.parametrize(
    "public_key",
    [
        b"",
        PUBLIC[0][:-1],
        PUBLIC[0] + b"\0",
        PUBLIC[0][:1184] + bytes(32),
        PUBLIC[0][:1184] + b"\1" + bytes(31),
    ],
    ids=["empty", "short", "long", "zero point", "small order"],
)
def test_a_key_nothing_can_be_sealed_to_is_refused_by_number(public_key: bytes) -> None:
    with pytest.raises(BlobRefused, match="recipient 1"):
        seal(b"x", [PUBLIC[0], public_key], CONTEXT, entropy=ENTROPY)
    assert not is_public_key(public_key)


def test_a_good_public_key_is_one() -> None:
    assert is_public_key(PUBLIC[0])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("chain_id", [-1, 2**256, True, "1", 1.0]),
        ("job_id", [-1, 2**256, None]),
        ("round_index", [-1, 2**32]),
        ("contract", ["", "0x12", CONTRACT + "0", "5FbDB2315678afecb367f032d93F642f64180aa3", None]),
        ("sender", ["0x" + "g" * 40, b"\0" * 20]),
        ("kind", ["", "Update", "a b", "-x", "x" * 65, "é", None]),
    ],
)
def test_a_context_out_of_range_is_refused(field: str, values: list[object]) -> None:
    good: dict[str, object] = {
        "chain_id": 1,
        "contract": CONTRACT,
        "job_id": 1,
        "round_index": 0,
        "kind": "update",
        "sender": SENDER,
    }
    SealContext(**good)  # type: ignore[arg-type]
    for value in values:
        with pytest.raises(BlobRefused, match=f"context.{field}"):
            SealContext(**{**good, field: value})  # type: ignore[arg-type]


def test_a_key_is_made_from_its_seed_and_hides_it() -> None:
    key = SealingKey(KEYS[0].seed)
    assert key.public == PUBLIC[0]
    assert len(key.public) == PUBLIC_KEY_BYTES
    assert key.digest == blake3_digest(PUBLIC[0])
    assert key.seed.hex() not in repr(key)
    for size in (0, SEED_BYTES - 1, SEED_BYTES + 1):
        with pytest.raises(ValueError, match="96 bytes"):
            SealingKey(bytes(size))


def test_hpke_vector_of_the_hybrid_kem() -> None:
    """The published vector fixes the key's derivation from its seed, the KEM and the key schedule."""
    vector = json.loads((Path(__file__).parent / "vectors" / "crypto_hpke.json").read_text())
    raw = {name: bytes.fromhex(value) for name, value in vector.items() if name != "source"}
    key = SealingKey(hashlib.shake_256(raw["skRm"]).digest(SEED_BYTES))
    assert key.public == raw["pkRm"]
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    # The public API takes no associated data, which the vector has.
    opened = rust_openssl.hpke._decrypt_with_aad(
        suite, raw["enc"] + raw["ct"], key._private, raw["info"], raw["aad"]
    )
    assert opened == raw["pt"]
