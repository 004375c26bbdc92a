"""Sealed envelopes, malformed at every byte and in every field: refused, within bounds, never a crash."""

from __future__ import annotations

import hashlib
import resource
import struct

import pytest

from galaxylearning.crypto.digest import blake3_digest
from galaxylearning.crypto.seal import (
    CHUNK_BYTES,
    MAX_RECIPIENTS,
    SealContext,
    SealingKey,
    open_sealed,
    seal,
    sealed_bytes,
)
from galaxylearning.crypto.secret_stream import seeded_entropy
from galaxylearning.errors import BlobRefused
from galaxylearning.units import Address

CONTRACT = Address("0x" + "11" * 20)
SENDER = Address("0x" + "22" * 20)
CONTEXT = SealContext(31337, CONTRACT, 7, 3, "update", SENDER)
KEYS = [SealingKey(hashlib.shake_256(bytes([i])).digest(96)) for i in range(3)]
TAG = 16
HEAD = 8 + 32 + 32 + 8 + 7 + 4
SLOT = 32 + 1168
LENGTH_AT, PREFIX_AT, COUNT_AT = 72, 80, 87


PLAINTEXT = bytes(range(256)) * 2
SMALL = seal(PLAINTEXT, [key.public for key in KEYS], CONTEXT, entropy=seeded_entropy(1))
LARGE_PLAINTEXT = hashlib.shake_256(b"large").digest(3 * CHUNK_BYTES + 5)
LARGE = seal(LARGE_PLAINTEXT, [KEYS[0].public], CONTEXT, entropy=seeded_entropy(2))
BODY_AT = HEAD + 3 * SLOT
LARGE_BODY_AT = HEAD + SLOT


def _refused(blob: bytes | bytearray, *, key: SealingKey = KEYS[0], max_bytes: int = 1 << 24) -> str:
    with pytest.raises(BlobRefused) as caught:
        open_sealed(blob, key, CONTEXT, max_bytes=max_bytes)
    return str(caught.value)


def _chunk(number: int) -> bytes:
    start = LARGE_BODY_AT + number * (CHUNK_BYTES + TAG)
    return LARGE[start : start + CHUNK_BYTES + TAG]


def _with(blob: bytes, at: int, replacement: bytes) -> bytes:
    return blob[:at] + replacement + blob[at + len(replacement) :]


def _with_length(blob: bytes, length: int) -> bytes:
    return _with(blob, LENGTH_AT, struct.pack(">Q", length))


def _with_count(blob: bytes, count: int) -> bytes:
    return _with(blob, COUNT_AT, struct.pack(">I", count))


def test_the_untouched_envelopes_open() -> None:
    for key in KEYS:
        assert open_sealed(SMALL, key, CONTEXT, max_bytes=1 << 24) == PLAINTEXT
    assert open_sealed(LARGE, KEYS[0], CONTEXT, max_bytes=1 << 24) == LARGE_PLAINTEXT


def test_truncated_at_every_byte() -> None:
    for length in range(len(SMALL)):
        _refused(SMALL[:length])


def test_every_byte_flipped() -> None:
    for at in range(len(SMALL)):
        altered = bytearray(SMALL)
        altered[at] ^= 0x01
        _refused(altered)


@pytest.mark.parametrize("extra", [b"\0", b"\xff", b"\0" * TAG, SMALL, b"x" * CHUNK_BYTES])
def test_extended(extra: bytes) -> None:
    assert "header promises" in _refused(SMALL + extra)
    assert "header promises" in _refused(extra + SMALL) or not extra.startswith(b"GLX")


@pytest.mark.parametrize(
    "length", [0, 1, 511, 513, 1 << 20, (1 << 24) + 1, 1 << 32, 1 << 52, 1 << 63, (1 << 64) - 1]
)
def test_a_lying_length(length: int) -> None:
    _refused(_with_length(SMALL, length))


@pytest.mark.parametrize(
    "count", [0, 1, 2, 4, 100, MAX_RECIPIENTS, MAX_RECIPIENTS + 1, 1 << 31, (1 << 32) - 1]
)
def test_a_lying_number_of_recipients(count: int) -> None:
    _refused(_with_count(SMALL, count))


@pytest.mark.parametrize("count", [0, MAX_RECIPIENTS + 1, (1 << 32) - 1])
def test_a_number_of_recipients_out_of_range_is_named(count: int) -> None:
    assert "recipients" in _refused(_with_count(SMALL, count))


@pytest.mark.parametrize("magic", [b"GLXSEAL0", b"GLXSEAL2", b"glxseal1", b"PK\x03\x04\0\0\0\0", bytes(8)])
def test_another_magic_or_version(magic: bytes) -> None:
    assert "magic" in _refused(_with(SMALL, 0, magic))


def test_slots_swapped_repeated_or_emptied() -> None:
    slots = [SMALL[HEAD + i * SLOT : HEAD + (i + 1) * SLOT] for i in range(3)]
    orders: list[list[bytes]] = [
        [slots[1], slots[0], slots[2]],
        [slots[0], slots[0], slots[2]],
        [slots[2], slots[1], slots[0]],
        [bytes(SLOT)] * 3,
    ]
    for order in orders:
        _refused(SMALL[:HEAD] + b"".join(order) + SMALL[BODY_AT:])


def test_wrapped_keys_swapped_between_recipients() -> None:
    wrapped = [SMALL[HEAD + i * SLOT + 32 : HEAD + (i + 1) * SLOT] for i in range(3)]
    altered = _with(_with(SMALL, HEAD + 32, wrapped[1]), HEAD + SLOT + 32, wrapped[0])
    messages = [_refused(altered, key=key) for key in KEYS]
    assert any("does not unwrap" in message for message in messages)


def test_a_recipient_removed_with_honest_counts() -> None:
    """The header is authenticated: even the recipients that stay refuse it."""
    for gone in range(3):
        kept = b"".join(SMALL[HEAD + i * SLOT : HEAD + (i + 1) * SLOT] for i in range(3) if i != gone)
        altered = _with_count(SMALL, 2)[:HEAD] + kept + SMALL[BODY_AT:]
        for key in KEYS:
            _refused(altered, key=key)


def test_a_recipient_added_by_a_stranger() -> None:
    stranger = SealingKey(hashlib.shake_256(b"stranger").digest(96))
    slots = [LARGE[HEAD:LARGE_BODY_AT], stranger.digest + bytes(1168)]
    altered = _with_count(LARGE, 2)[:HEAD] + b"".join(sorted(slots)) + LARGE[LARGE_BODY_AT:]
    assert "chunk 0" in _refused(altered)
    assert "does not unwrap" in _refused(altered, key=stranger)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (0, 0, 2), (1, 1, 1), (2, 2, 2)])
def test_chunks_reordered_or_repeated(order: tuple[int, ...]) -> None:
    body = b"".join(_chunk(number) for number in order) + _chunk(3)
    assert "chunk" in _refused(LARGE[:LARGE_BODY_AT] + body)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_chunks_dropped_with_an_honest_length(kept: int) -> None:
    altered = LARGE[: LARGE_BODY_AT + kept * (CHUNK_BYTES + TAG)]
    assert "chunk" in _refused(_with_length(altered, kept * CHUNK_BYTES))


def test_chunks_of_another_envelope() -> None:
    other = seal(LARGE_PLAINTEXT, [KEYS[0].public], CONTEXT, entropy=seeded_entropy(3))
    assert "chunk" in _refused(LARGE[:LARGE_BODY_AT] + other[LARGE_BODY_AT:])
    assert "content key" in _refused(LARGE[:HEAD] + other[HEAD:])


@pytest.mark.parametrize("at", range(0, 3 * (CHUNK_BYTES + TAG), 211_111))
def test_a_flip_deep_inside_the_body(at: int) -> None:
    altered = bytearray(LARGE)
    altered[LARGE_BODY_AT + at] ^= 0x80
    assert "is not authentic" in _refused(altered)


@pytest.mark.parametrize("max_bytes", [0, 1, 511])
def test_over_the_limit(max_bytes: int) -> None:
    assert "allowed" in _refused(SMALL, max_bytes=max_bytes)


def test_two_recipients_cannot_be_shown_two_contents() -> None:
    """A sender who wraps another key for one recipient is found out by that recipient."""
    one = seal(b"for one.", [KEYS[0].public], CONTEXT, entropy=seeded_entropy(4))
    two = seal(b"for two.", [KEYS[1].public], CONTEXT, entropy=seeded_entropy(5))
    slots = sorted([one[HEAD : HEAD + SLOT], two[HEAD : HEAD + SLOT]])
    forged = _with_count(one, 2)[:HEAD] + b"".join(slots) + one[HEAD + SLOT :]
    assert "content key" in _refused(forged, key=KEYS[1])
    _refused(forged, key=KEYS[0])


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0",
        b"GLXSEAL1",
        b"GLXSEAL1" * 5000,
        bytes(HEAD),
        bytes(HEAD - 1),
        bytes(1 << 20),
        b"\xff" * (1 << 20),
        b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        b'{"version": 1}',
        b"PK\x03\x04" + bytes(2000),
        b"\x1f\x8b\x08" + bytes(2000),
        b"-----BEGIN AGE ENCRYPTED FILE-----",
    ],
    ids=lambda blob: f"{len(blob)}-{blob[:8].hex()}",
)
def test_what_is_no_envelope(blob: bytes) -> None:
    _refused(blob)


def test_the_most_recipients_that_are_allowed_cost_little() -> None:
    slots = b"".join(i.to_bytes(32, "big") + bytes(1168) for i in range(1, MAX_RECIPIENTS + 1))
    blob = _with_length(_with_count(SMALL, MAX_RECIPIENTS), 1)[:HEAD] + slots + bytes(1 + TAG)
    assert len(blob) == sealed_bytes(1, MAX_RECIPIENTS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "not among the recipients" in _refused(blob)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_lying_lengths_allocate_nothing() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for length in (1 << 34, 1 << 40, 1 << 62):
        _refused(_with_length(SMALL, length), max_bytes=1 << 63)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("kind", ["model", "test-set", "update2", "shares"])
def test_an_envelope_replayed_as_another_kind(kind: str) -> None:
    other = SealContext(31337, CONTRACT, 7, 3, kind, SENDER)
    with pytest.raises(BlobRefused, match="context"):
        open_sealed(SMALL, KEYS[0], other, max_bytes=1 << 20)


def test_a_digest_swapped_in_the_header_is_not_enough() -> None:
    other = SealContext(31337, CONTRACT, 7, 4, "update", SENDER)
    altered = _with(SMALL, 8, blake3_digest(other.canonical_bytes()))
    with pytest.raises(BlobRefused, match="unwrap"):
        open_sealed(altered, KEYS[0], other, max_bytes=1 << 20)
