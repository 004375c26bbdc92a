"""Inputs of several parts: each a blob of its own to whoever reads it, all of them one input here."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
from benchmarks.fuzz.mutate import change_bytes


def join(parts: Sequence[bytes]) -> bytes:
    """Several blobs as one input."""
    return msgspec.msgpack.encode(list(parts))


def split(data: bytes) -> list[bytes]:
    """The blobs of :func:`join`."""
    return msgspec.msgpack.decode(data, type=list[bytes])


def mutate_parts(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One or two of the blobs changed, exchanged or of another input."""
    parts = split(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(parts))
        kind = rng.random()
        if kind < 0.8:
            parts[at] = change_bytes(rng, parts[at])
        elif kind < 0.9:
            parts[at] = parts[rng.randrange(len(parts))]
        else:
            others = split(rng.choice(seeds))
            parts[at] = others[at % len(others)]
    return join(parts)
