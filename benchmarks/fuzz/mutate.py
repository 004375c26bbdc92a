"""Bytes made wrong: flips, cuts, repeats, splices, lying lengths and odd pieces, from a seed that replays."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

Change: TypeAlias = Callable[[random.Random, bytearray], None]

MAX_BYTES: Final = 1 << 17
"""An input is cut here: what a longer one would show is for the hand-made cases."""

BOUNDS: Final = (
    *(0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1),
)

PIECES: Final = (
    b"",
    b"\0",
    b"\0" * 64,
    b"\xff" * 16,
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    "‮\u200b\ufeffé".encode(),
    b"NaN",
    b"-Infinity",
    b"1e999999",
    b"-0",
    b"0x",
    b"9" * 400,
    b"9" * 5000,
    b'"a":1,"a":2,',
    b"null",
    b"[" * 200,
    b"[" * 20_000,
    b'{"a":' * 200,
    b'{"a":' * 5_000,
    b"\x91" * 5_000,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"../../../etc/passwd\0",
    b"__import__('os').system('true')",
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04\x95",
    b"PK\x03\x04",
    b"PAR1",
    b"ARROW1",
    b"\x93NUMPY\x01\x00",
    b"\r\n\r\n",
    b"\r\n",
    b",",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"%00%2e%2e%2f",
)


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def _bound(rng: random.Random, data: bytearray) -> None:
    """A length, count or offset that lies: a boundary value where an integer may stand, or one near it."""
    size = rng.choice((1, 2, 4, 4, 8))
    if len(data) < size:
        return
    at = rng.randrange(len(data) - size + 1)
    value = rng.choice(BOUNDS)
    if rng.random() < 0.3:
        value = int.from_bytes(data[at : at + size], "little") + rng.choice((-16, -2, -1, 1, 2, 16))
    form = ("<" if rng.random() < 0.6 else ">") + {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
    data[at : at + size] = struct.pack(form, value & (1 << 8 * size) - 1)


def _slice(rng: random.Random, data: bytearray) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + 1 + int(rng.expovariate(1 / 12)))


def _delete(rng: random.Random, data: bytearray) -> None:
    start, stop = _slice(rng, data)
    del data[start:stop]


def _repeat(rng: random.Random, data: bytearray) -> None:
    start, stop = _slice(rng, data)
    times = rng.choice((1, 1, 2, 10, 200, 3000))
    data[stop:stop] = bytes(data[start:stop]) * times


def _insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(PIECES)


def _replace(rng: random.Random, data: bytearray) -> None:
    start, stop = _slice(rng, data)
    data[start:stop] = rng.choice(PIECES)


def _noise(rng: random.Random, data: bytearray) -> None:
    start, stop = _slice(rng, data)
    data[start:stop] = rng.randbytes(stop - start)


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _swap(rng: random.Random, data: bytearray) -> None:
    start, stop = _slice(rng, data)
    other = rng.randrange(len(data) - (stop - start) + 1)
    piece, there = data[start:stop], data[other : other + stop - start]
    data[start:stop], data[other : other + stop - start] = there, piece


_CHANGES: Final[tuple[Change, ...]] = (
    *(_flip, _flip, _set, _set, _bound, _bound, _bound, _delete, _repeat),
    *(_insert, _replace, _noise, _cut, _swap),
)


def change_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """``data`` after one to five changes; now and then its end is one of the ``others``'."""
    made = bytearray(data)
    if others and rng.random() < 0.06:
        other = rng.choice(others)
        made[rng.randrange(len(made) + 1) :] = other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        if not made:
            made += rng.choice(PIECES) or b"\0"
        rng.choice(_CHANGES)(rng, made)
        del made[MAX_BYTES:]
    return bytes(made)


def mutate_bytes(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the ``seeds``, changed."""
    return change_bytes(rng, rng.choice(seeds), seeds)
