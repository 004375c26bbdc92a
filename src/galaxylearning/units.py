"""Units and names of quantities. Bottom of the layers: imports nothing of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NewType, TypeAlias

Digest = NewType("Digest", bytes)
"""32 bytes: BLAKE3 of a blob, or keccak-256 where the chain hashes it."""

Address = NewType("Address", str)
"""An EIP-55 checksummed account address, ``0x`` and 40 hex digits."""

Entropy: TypeAlias = Callable[[int], bytes]
"""Source of secret randomness: ``entropy(n)`` gives n bytes. Never a statistical generator."""

TOKEN_DECIMALS: Final = 18
"""Of the token, and of the native coin."""

COSINE_UNIT: Final = 1 << 20
"""Cosines are summed, and recorded, as integers of this many to the one."""

ZERO_DIGEST = Digest(bytes(32))


def in_tokens(units: int) -> str:
    """An amount of smallest units, from 0, in whole tokens, exactly: ``1,030.5``."""
    whole, part = divmod(units, 10**TOKEN_DECIMALS)
    return f"{whole:,}" + (f".{part:0{TOKEN_DECIMALS}d}".rstrip("0") if part else "")


def round_name(round_index: int) -> str:
    """A round as people read it: they count from 1, so index 0 is ``round 1``."""
    return f"round {round_index + 1}"


def how_many(count: int, noun: str) -> str:
    """A count with its noun, whose plural an s makes: ``1 round``, ``2,000 rounds``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
